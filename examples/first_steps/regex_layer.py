"""Give it a regular expression: a network that is right at every length, and the proof; a wrong one, and the word."""

import torch

from corollary.automata import DFA, RationalTransductor, certify, equivalent, to_dot, transition_monoid


def main() -> None:
    declared = DFA.from_regex("(b*ab*a)*b*", "ab")  # an even number of a
    print(to_dot(declared))
    monoid = transition_monoid(declared)
    print(f"{declared.states} states; {monoid.order} maps of states, a group: {monoid.is_group}")

    model = RationalTransductor.from_regex("(b*ab*a)*b*", "ab")
    word = "abba" * 20_000 + "a"
    answer = model(torch.tensor([declared.codes(word)]))[0, -1].argmax().item()
    print(f"{len(word)} symbols: the network says {bool(answer)}, the automaton {declared.accepts(word)}")

    certificate, evidence = certify(model, declared)
    print(certificate)
    print(certificate.check(**evidence))

    wrong = RationalTransductor.from_regex("(b*ab*a){0,3}b*", "ab")  # right up to six a
    certificate, evidence = certify(wrong, declared)
    print(certificate.statement)
    print(equivalent(DFA.from_regex("(b*ab*a){0,3}b*", "ab"), declared).witness)


if __name__ == "__main__":
    main()
