"""Finite samples: a uniform density with a spike, classifiers fitted on n draws, errors at several temperatures."""

import numpy as np

WIDTHS = (1e-1, 1e-2, 1e-3, 1e-4)
DRAWS = (50, 500, 5000)
SHARE = 0.1
TEMPERATURES = (1.0, 2.0, 2.5)
GRID = np.round(np.linspace(1, 4, 31), 3)


def classifiers(seed):
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.tree import DecisionTreeClassifier

    return {
        "tree": DecisionTreeClassifier(min_samples_leaf=5, random_state=seed),
        "boosting": HistGradientBoostingClassifier(max_iter=50, random_state=seed),
    }


def spike(seed):
    """Errors by width, draws and classifier: retain (KL) and forget (L1 under the spike) at T = 1, 2, 2.5, best T."""
    from corollary.unlearning import FiniteWorld

    found = {}
    for width in WIDTHS:
        for n in DRAWS:
            rng = np.random.default_rng([seed, n, int(1 / width)])
            kept, lost = rng.random(round(n * (1 - SHARE) / SHARE)), width * rng.random(n)
            X = np.concatenate([kept, lost])[:, None]
            y = np.repeat([1, 0], [len(kept), len(lost)])
            # atoms fine enough for classifiers that are constant between data points
            edges = np.unique(np.concatenate([np.linspace(0, width, 2001), np.linspace(width, 1, 8001)]))
            middle, mass = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
            inside = middle < width
            for name, model in classifiers(seed).items():
                f = model.fit(X, y).predict_proba(middle[:, None])[:, 1].clip(1e-4, 1)
                world = FiniteWorld(
                    np.ones(len(mass)) / mass.sum(),
                    inside / mass[inside].sum(),
                    share=SHARE,
                    classifier=f,
                    measure=mass,
                )
                key = f"{name} w={width:g} n={n}"
                for t in TEMPERATURES:
                    found[f"{key} forget T={t:g}"] = float(f"{world.forget_error(t):.4g}")
                    found[f"{key} retain T={t:g}"] = float(f"{world.retain_error(t):.4g}")
                errors = [world.forget_error(t) for t in GRID]
                found[f"{key} best T"] = float(GRID[int(np.argmin(errors))])
                found[f"{key} forget best T"] = float(f"{min(errors):.4g}")
    return found
