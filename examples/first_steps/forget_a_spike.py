"""Why tilting alone is not enough: a narrow spike to forget, a classifier that is a little wrong, and temperature."""

from corollary.unlearning import spike_world

TEMPERATURES = (1.0, 1.5, 2.0, 2.5, 4.0)


def main() -> None:
    print("forget error E|p_hat - p_r| under the spike; 1 is what is left where the spike becomes a hole")
    print("width    " + "".join(f"T = {t:<7g}" for t in TEMPERATURES) + "retain error at T = 1, 2.5")
    for width in (1e-2, 1e-3, 1e-4):
        world = spike_world(width)
        errors = "".join(f"{world.forget_error(t):<11.3f}" for t in TEMPERATURES)
        print(f"{width:<9g}{errors}{abs(world.retain_error(1.0)):.4f}, {world.retain_error(2.5):.4f}")
    bounds = spike_world(1e-3).bounds()
    print(
        f"at T = 1 the retain error {bounds.retain_error:.4f} is at most {bounds.retain_bound:.4f} (excess risk / .9)"
    )


if __name__ == "__main__":
    main()
