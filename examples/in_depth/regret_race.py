"""Online learning of matrices: the leader swings, the smoothed learners do not, and their regret is certified."""

from corollary.optim import FAML, FTPL, FTRL, FollowTheLeader, alternating_stream, play

stream = alternating_stream(200, (3, 8))
for learner in (FollowTheLeader((3, 8)), FAML((3, 8)), FTPL((3, 8)), FTRL((3, 8))):
    game = play(learner, stream)
    bound = "none" if game.bound is None else f"{game.bound:.1f}"
    print(f"{type(learner).__name__:16} regret {game.regret:7.2f}  bound {bound}")

game = play(FAML((3, 8)), stream)
print(game.decompose())  # lemma 2: the four terms sum to the regret
print(game.certificate)
print(game.certificate.check(**game.evidence))
