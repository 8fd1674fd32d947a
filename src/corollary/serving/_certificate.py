r"""What a gateway that explores certifies, and how it is derived again; imports no solver and no trainer.

`serving.explored_policy` [confidence 1 - delta]: with probability eps the model is drawn uniformly, else it is the
router's. If the router alone has mean cost <= B and mean quality >= Q, no request costs more than C and no quality is
below 0, the policy that is served has mean cost <= (1 - eps) B + eps C and mean quality >= (1 - eps) Q.

The mean of a mixture is the mixture of the means; the rest is `deferral.cost_and_quality`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from corollary.certificates import Assumption, Certificate, Claim, Rule, Undecided, register_rule
from corollary.deferral._certificate import cost_and_quality
from corollary.errors import InvalidInputError

RULE = "serving.explored_policy"


def explored_policy(witness: Mapping[str, Any], evidence: Mapping[str, np.ndarray]) -> list[Claim]:
    """Derive the claims of the mixture from those of the router."""
    share = float(witness["exploration"])
    if not 0 <= share <= 1:
        raise Undecided(f"an exploration of {share} is no probability")
    top = float(witness["ranges"]["cost"][1])
    found = []
    for claim in cost_and_quality(witness, evidence):
        if claim.name.startswith("mean cost"):
            lhs, rhs = ((1 - share) * x + share * top for x in (claim.lhs, claim.rhs))
            found.append(Claim(f"{claim.name}, exploration included", lhs, "<=", rhs, 0.0, claim.trivial))
        elif claim.name == "mean quality":
            lhs, rhs = (1 - share) * claim.lhs, (1 - share) * claim.rhs
            found.append(Claim("mean quality, exploration included", lhs, ">=", rhs, 0.0, claim.trivial))
        else:
            found.append(claim)
    return found


def explore(certificate: Certificate, evidence: Mapping[str, np.ndarray], exploration: float) -> Certificate:
    """The certificate of a router's policy with this share of uniform draws; itself where nothing is explored.

    Args:
        certificate: of the rule `deferral.cost_and_quality`, not undecided.
        evidence: its arrays.
        exploration: probability of a uniform draw.

    Raises:
        InvalidInputError: for another certificate, or no probability.
    """
    if not 0 <= exploration <= 1:
        raise InvalidInputError(f"`exploration` must lie in [0, 1], got {exploration}")
    if certificate.rule != "deferral.cost_and_quality":
        raise InvalidInputError(f"a certificate of {certificate.rule} says nothing of a router's policy")
    if exploration == 0 or not certificate.claims:
        return certificate
    witness = {**certificate.witness, "exploration": float(exploration)}
    chosen = float(witness["quality"][witness["chosen"]])
    top = float(witness["ranges"]["cost"][1])
    cost = ""
    if witness["budget"] is not None:
        bound = (1 - exploration) * float(witness["budget"]) + exploration * top
        cost = f"a mean cost of at most {bound:g} ({witness['unit']}) and "
    return Certificate.issue(
        RULE,
        statement=(
            f"On traffic exchangeable with the certifying rows the policy that is served, of which {exploration:g} are "
            f"uniform draws, has {cost}a mean quality of at least {(1 - exploration) * chosen:.4f}, "
            f"with confidence {certificate.confidence:g}."
        ),
        evidence=evidence,
        witness=witness,
        reference=certificate.reference,
        assumptions=(
            *certificate.assumptions,
            Assumption("requests ask for the automatic choice without a price or target of their own, and neither a "
                       "budget nor a fault sends them elsewhere"),
        ),
        confidence=certificate.confidence,
        pins={k: v for k, v in certificate.digest.items() if k != "evidence"},
        attempts=certificate.attempts,
        provenance=certificate.provenance,
    )  # fmt: skip


register_rule(Rule(RULE, needs=("cost", "quality", "rows"), derive=explored_policy, tolerances={"claims": 1e-9}))
