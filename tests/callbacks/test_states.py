"""What callbacks keep in a checkpoint comes back to the callback that it was kept of, or it is said why not."""

from __future__ import annotations

import pytest

from trainwright.callbacks.states import collect, restore


class Patience:
    """As transformers' callbacks with a state are: `args` are the constructor's, `attributes` how far it is."""

    def __init__(self, patience=3, margin=0.0):
        self.patience, self.margin, self.seen, self.best = patience, margin, 0, None

    def state(self):
        return {
            "args": {"patience": self.patience, "margin": self.margin},
            "attributes": {"seen": self.seen, "best": self.best},
        }


def kept(patience=3, seen=0):
    owner = Patience(patience)
    owner.seen, owner.best = seen, seen / 2
    return owner


def restored(today, saved):
    said = []
    restore(today, saved, said.append)
    return said


def test_attributes_come_back_and_args_are_todays_which_is_said_of_those_that_differ():
    saved = collect([kept(patience=3, seen=7)], pytest.fail)
    same, other = Patience(3), Patience(5)
    assert restored([same], saved) == []
    assert (same.patience, same.seen, same.best) == (3, 7, 3.5)
    assert restored([other], saved) == ["Patience goes on with patience 5 instead of the checkpoint's 3."]
    assert (other.patience, other.margin, other.seen, other.best) == (5, 0.0, 7, 3.5)


@pytest.mark.parametrize("missing", ["args", "attributes"])
def test_a_state_may_be_without_args_or_without_attributes(missing):
    saved = collect([kept(patience=4, seen=7)], pytest.fail)
    del saved["Patience"][missing]
    today = Patience(4)
    assert restored([today], saved) == []
    assert today.seen == (0 if missing == "attributes" else 7)
    today.state = lambda: {"attributes": {"seen": today.seen}}  # nor does today's say what it was made with
    assert restored([today], saved) == []


def test_an_argument_that_only_one_of_the_two_has_is_passed_over():
    saved = collect([kept(seen=7)], pytest.fail)
    saved["Patience"]["args"]["gone"] = 1
    today = Patience()
    assert restored([today], saved) == []
    assert today.seen == 7


def test_several_of_a_class_are_told_apart_by_their_args_and_else_by_their_order():
    saved = collect([kept(3, seen=1), kept(5, seen=2)], pytest.fail)
    five, three = Patience(5), Patience(3)
    assert restored([five, three], saved) == []
    assert (five.seen, three.seen) == (2, 1)
    first, second = Patience(8), Patience(3)
    assert restored([first, second], saved) == ["Patience goes on with patience 8 instead of the checkpoint's 5."]
    assert (first.seen, second.seen) == (2, 1)
    alone = Patience(8)
    assert restored([alone], saved) == ["2 callbacks Patience were saved, none like this one; it begins anew."]
    assert alone.seen == 0


def test_a_state_that_cannot_be_put_back_costs_that_callback_alone():
    class Fixed(Patience):
        seen = property(lambda self: 0, lambda self, value: None if value == 0 else 1 / 0)

    saved = {"Fixed": {"args": {}, "attributes": {"seen": 1}}, **collect([kept(seen=7)], pytest.fail)}
    today = Patience()
    assert restored([Fixed(), today], saved) == [
        "The state of Fixed cannot be restored (ZeroDivisionError: division by zero); it begins anew."
    ]
    assert today.seen == 7
    assert restored([today], {"Patience": 5})[0].startswith("The state of Patience cannot be restored (")
