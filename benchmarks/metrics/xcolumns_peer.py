"""xCOLUMNs in a process and an environment of its own: run by the Python named in COROLLARY_XCOLUMNS_PYTHON.

Usage: xcolumns_peer.py IN.npz OUT.npy; IN holds `truth` and `proba` (n, L) to choose on, `test` (m, L) to predict,
`k` (1 for classes, 0 for labels) and `metric` (f1 or jaccard). Frank-Wolfe, macro average.
"""

import sys

import numpy as np

if __name__ == "__main__":
    from xcolumns import frank_wolfe as fw

    data = np.load(sys.argv[1])
    # the package's own find_classifier_optimizing_macro_* fail on a wrong number of arguments (0.2, numpy 2.4)
    goal = {"f1": fw.macro_f1_score_on_conf_matrix, "jaccard": fw.macro_jaccard_score_on_conf_matrix}[
        str(data["metric"])
    ]
    truth, k = data["truth"].astype(np.float64), int(data["k"])
    chosen = fw.find_classifier_using_fw(truth, data["proba"], goal, k, seed=0, alpha_uniform_search_step=0.01)
    np.save(sys.argv[2], np.asarray(chosen.predict(data["test"], seed=0)))
