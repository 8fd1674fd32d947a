"""Leon and Pion, matrix optimizers that smooth Muon by the second moment of its gradients, and the learners behind."""

from corollary._lazy import lazily

_HOME = {
    "Admissibility": "_smoothing",
    "Decomposition": "_play",
    "Diagnosis": "_diagnostics",
    "FAML": "_learners",
    "FTPL": "_learners",
    "FTRL": "_learners",
    "FollowTheLeader": "_learners",
    "Gaussian": "_smoothing",
    "Hyperbolic": "_smoothing",
    "Leon": "_leon",
    "MatrixLearner": "_learners",
    "MatrixOptimizer": "_frame",
    "Muon": "_peers",
    "NuclearNorm": "_smoothing",
    "OneSidedShampoo": "_peers",
    "OneSidedShampooOGD": "_learners",
    "OnlineToNonconvex": "_conversion",
    "Pion": "_leon",
    "Play": "_play",
    "Potential": "_smoothing",
    "Regularised": "_smoothing",
    "SOAP": "_soap",
    "ShampooOGD": "_learners",
    "Split": "_split",
    "alternating_stream": "_play",
    "check_admissible": "_smoothing",
    "leon_direction": "_directions",
    "load_optimizer": "_state",
    "make_optimizer": "_make",
    "muon_direction": "_directions",
    "pack_state": "_state",
    "pion_direction": "_directions",
    "play": "_play",
    "realised_regret": "_bounds",
    "save_optimizer": "_state",
    "split_module": "_split",
    "theorem_bound": "_bounds",
    "unpack_state": "_state",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazily(__name__, _HOME)
