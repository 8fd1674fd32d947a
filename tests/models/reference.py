"""Modified Kneser-Ney by dictionaries, one n-gram at a time: slow, and written apart from the library's."""

from collections import Counter, defaultdict
from math import log


class ReferenceNgram:
    def __init__(self, documents, order):
        self.order = order
        raw = [Counter() for _ in range(order + 1)]
        left = [defaultdict(set) for _ in range(order + 1)]
        for document in documents:
            padded = b"\0" * order + document + b"\0"
            for t in range(order, len(padded)):
                for k in range(1, order + 1):
                    gram = padded[t - k + 1 : t + 1]
                    raw[k][gram] += 1
                    left[k][gram].add(padded[t - k])
        self.children = {}
        self.discount = {}
        for k in range(1, order + 1):
            counts = {}
            for gram, c in raw[k].items():
                if k > 2 and gram[:2] == b"\0\0":
                    continue
                behind_start = k > 1 and gram[0] == 0
                counts[gram] = c if k == order or behind_start else len(left[k][gram])
            self.discount[k] = self._discounts(Counter(counts.values()))
            for gram, c in counts.items():
                self.children.setdefault(gram[:-1], {})[gram[-1]] = c

    @staticmethod
    def _discounts(n):
        result = [0.5, 1.0, 1.5]
        for j in (1, 2, 3):
            if n[1] and n[j] and n[j + 1]:
                y = n[1] / (n[1] + 2 * n[2])
                d = j - (j + 1) * y * n[j + 1] / n[j]
                if 0 < d <= j:
                    result[j - 1] = d
        return result

    def probability(self, token, context):
        """p(token | the last order - 1 bytes of a context already padded)."""
        children = self.children.get(context)
        if len(context) and children is None:
            return self.probability(token, context[1:])
        lower = self.probability(token, context[1:]) if len(context) else 1 / 256
        d = self.discount[len(context) + 1]
        total = sum(children.values())
        escape = sum(d[min(c, 3) - 1] for c in children.values()) / total
        c = children.get(token, 0)
        return (c - d[min(c, 3) - 1] if c else 0.0) / total + escape * lower

    def statistics(self, context):
        while len(context) and context not in self.children:
            context = context[1:]
        d, children = self.discount[len(context) + 1], self.children[context]
        total = sum(children.values())
        return len(context), total, sum(d[min(c, 3) - 1] for c in children.values()) / total

    def contexts(self, document):
        padded = b"\0" * (self.order - 1) + document
        return [padded[t : t + self.order - 1] for t in range(len(document) + 1)]

    def log_probs(self, document):
        return [log(self.probability(w, c)) for w, c in zip(document, self.contexts(document), strict=False)]
