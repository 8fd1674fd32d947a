"""Calibrated forecasts of vectors against an adversary that answers what is announced, with the theorem beside."""

from corollary.calibration import FollowTheLeader, Simplex, TreeCal, adversary, calibration_error, every_norm, play


def main() -> None:
    domain, rounds = Simplex(3), 4096
    tree = {"levels": 2, "branching": 64}
    forecaster = TreeCal(domain, **tree)
    game = play(forecaster, adversary("best-response", domain), rounds)
    print("norm    error a round   theorem   trivial")
    for row in every_norm(*game, domain, norms=(1, 2, "linf"), **tree):
        print(f"{row.norm:<6}  {row.error:13.4f}   {row.theorem:7.4f}   {row.trivial:7.4f}")

    leader = play(FollowTheLeader(domain), adversary("best-response", domain), rounds)
    print(f"\nthe plain average, l1: {calibration_error(*leader) / rounds:.4f}")


if __name__ == "__main__":
    main()
