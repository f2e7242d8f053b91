"""Which requests belong to the walk that the kernel makes for a thread after an ESTALE. No kernel here."""

from __future__ import annotations

import errno

import pytest

from s3vfs.errors import PosixError
from s3vfs.fuse.second_tries import LOOK_WITHIN_S, OPEN_WITHIN_S, OTHER_WITHIN_S, Name, SecondTries

ROOT, PARENT, DIRECTORY, FILE, OTHER = 1, 10, 20, 30, 31
NAME, ANOTHER = (DIRECTORY, b"name"), (DIRECTORY, b"another")
OF_DIRECTORY = (PARENT, b"directory")
THREAD = 77


class World:
    """A clock as a test wants it, and requests as the kernel makes them."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.tries = SecondTries(self.lineage, lambda: self.now_s)

    def lineage(self, ino: int) -> list[int]:
        return [ino, *{DIRECTORY: [PARENT, ROOT], PARENT: [ROOT]}.get(ino, [])]

    def look_up(self, name: Name, ino: int, *, leads_on: bool = False, took_s: float = 0.0) -> bool:
        walking = self.tries.looks_up(THREAD, name)
        self.now_s += took_s
        self.tries.looked_up(THREAD, name, ino, leads_on=leads_on)
        return walking

    def expected(self, ino: int, thread: int = THREAD) -> bool:
        """By a request that arrives now."""
        with self.tries.serving(thread, ino):
            return self.tries.expects(ino)

    def look_up_directory(self) -> None:
        self.look_up(OF_DIRECTORY, DIRECTORY, leads_on=True)


def test_what_a_refused_thread_is_then_named_it_may_open_once() -> None:
    world = World()
    assert not world.tries.is_second_try(THREAD, FILE)
    world.tries.refused(THREAD, FILE)
    world.look_up_directory()
    world.look_up(NAME, OTHER)
    assert not world.tries.is_second_try(THREAD + 1, OTHER)
    assert world.tries.is_second_try(THREAD, OTHER)
    assert not world.tries.is_second_try(THREAD, OTHER)


def test_a_refused_thread_that_was_named_another_inode_is_sent_back_again() -> None:
    world = World()
    world.tries.refused(THREAD, FILE)
    world.look_up(NAME, OTHER)
    assert not world.tries.is_second_try(THREAD, FILE)


def test_a_path_without_names_is_opened_at_the_second_try() -> None:
    """/proc/self/fd/3, or the working directory: there is nothing to look up."""
    world = World()
    world.tries.refused(THREAD, FILE)
    assert world.tries.is_second_try(THREAD, FILE)


@pytest.mark.parametrize("lasts_s", [OPEN_WITHIN_S, OTHER_WITHIN_S])
def test_a_second_try_is_no_longer_one_a_while_after_the_last_answer(lasts_s: float) -> None:
    world = World()
    world.tries.refused(THREAD, FILE, lasts_s=lasts_s)
    world.look_up(NAME, FILE)
    world.now_s += lasts_s + 0.1
    assert not world.tries.is_second_try(THREAD, FILE)
    assert not world.expected(FILE)


def test_a_walk_may_wait_long_for_the_locks_of_directories_and_for_answers() -> None:
    """Seen where 16 threads worked in one directory: 4 s between the look-ups of two parts of a path."""
    world = World()
    world.tries.refused(THREAD, FILE, lasts_s=OTHER_WITHIN_S)
    world.look_up_directory()
    for _ in range(2):  # does it still hold? What is there now?
        world.now_s += LOOK_WITHIN_S - 1
        world.look_up(NAME, OTHER, took_s=LOOK_WITHIN_S + 1)
    assert world.expected(OTHER)
    assert world.tries.is_second_try(THREAD, OTHER)


def test_a_walk_that_was_given_up_ends_after_a_while() -> None:
    world = World()
    world.tries.refused(THREAD, FILE)
    world.look_up_directory()
    world.now_s += LOOK_WITHIN_S + 1
    world.look_up(NAME, OTHER)
    assert not world.tries.is_second_try(THREAD, OTHER)


@pytest.mark.parametrize(
    "elsewhere",
    [
        pytest.param((DIRECTORY, b"another"), id="beside a file, which ends a path"),
        pytest.param((OTHER, b"name"), id="where the walk has not been"),
    ],
)
def test_a_look_up_that_cannot_follow_is_another_calls(elsewhere: Name) -> None:
    """After stat(2) the thread's next call passes what the kernel has cached, perhaps an outdated name, and looks up
    what lies below."""
    world = World()
    world.tries.refused(THREAD, FILE, lasts_s=OTHER_WITHIN_S)
    world.look_up_directory()
    world.look_up(NAME, FILE)
    assert not world.look_up(elsewhere, OTHER)
    assert not world.tries.is_second_try(THREAD, OTHER)
    assert not world.expected(OTHER)


@pytest.mark.parametrize("parent", [ROOT, PARENT, DIRECTORY])
def test_a_walk_goes_on_behind_symbolic_links_and_dots(parent: int) -> None:
    """A link may lead to the root, beside itself, or upwards; the kernel follows `..` without asking."""
    world = World()
    world.tries.refused(THREAD, FILE)
    world.look_up(NAME, OTHER, leads_on=True)
    assert world.look_up((parent, b"target"), FILE)
    assert world.tries.is_second_try(THREAD, FILE)


@pytest.mark.parametrize("names", [(NAME, NAME, NAME), (NAME, ANOTHER)])
def test_a_path_that_ends_in_nothing_ends_the_second_try(names: tuple[Name, ...]) -> None:
    """What the same thread is named next is another call's."""
    world = World()
    world.tries.refused(THREAD, FILE)
    for name in names[:-1]:
        world.look_up(name, 0)
    world.look_up(names[-1], OTHER)
    assert not world.tries.is_second_try(THREAD, OTHER)
    assert not world.expected(OTHER)


def test_a_look_up_that_fails_ends_the_second_try() -> None:
    world = World()
    world.tries.refused(THREAD, FILE)
    world.tries.looks_up(THREAD, NAME)
    world.tries.ended(THREAD)
    world.look_up(NAME, OTHER)
    assert not world.tries.is_second_try(THREAD, OTHER)


def test_a_name_that_is_there_again_when_the_kernel_asks_anew_is_opened() -> None:
    """It asks whether the name still leads where it did: no. Then what is there: perhaps something new."""
    world = World()
    world.tries.refused(THREAD, FILE)
    world.look_up(NAME, 0)
    world.look_up(NAME, OTHER)
    assert world.expected(OTHER)
    assert world.tries.is_second_try(THREAD, OTHER)
    world.tries.refused(THREAD, FILE)
    world.look_up(NAME, 0)
    assert not world.tries.is_second_try(THREAD, FILE)  # a call of its own


def test_a_look_up_that_follows_closely_must_not_be_refused_again() -> None:
    world = World()
    assert not world.tries.looks_up(THREAD, NAME)
    world.tries.refused(THREAD, DIRECTORY, lasts_s=OTHER_WITHIN_S)
    assert world.look_up(OF_DIRECTORY, DIRECTORY, leads_on=True)
    world.now_s += OTHER_WITHIN_S + 0.1
    assert not world.tries.looks_up(THREAD, NAME)


def test_threads_that_cannot_be_told_apart_have_no_second_try() -> None:
    world = World()
    world.tries.refused(0, FILE)
    assert not world.tries.is_second_try(0, FILE)


def test_what_a_refused_thread_was_named_is_there_for_its_next_request_however_long_that_takes() -> None:
    world = World()
    world.look_up(NAME, OTHER)
    assert not world.expected(OTHER)
    world.tries.refused(THREAD, FILE, lasts_s=OTHER_WITHIN_S)
    world.look_up(NAME, OTHER)
    assert not world.tries.expects(OTHER)
    with world.tries.serving(THREAD, OTHER), world.tries.serving(THREAD, OTHER):
        world.now_s += 2 * OTHER_WITHIN_S
        assert world.tries.expects(OTHER)
        assert not world.tries.expects(FILE)
    assert not world.tries.expects(OTHER)


def test_an_estale_that_leaves_a_request_begins_a_walk_and_no_other_error_does() -> None:
    world = World()
    for code, begins in ((errno.ENOENT, False), (errno.ESTALE, True)):
        with pytest.raises(PosixError), world.tries.serving(THREAD, FILE):
            raise PosixError(code)
        assert world.tries.is_second_try(THREAD, FILE) is begins


def test_what_a_walk_found_is_there_for_nobody_else_and_for_no_later_call() -> None:
    """Seen where the kernel could not be told for 6 s that a name had gone: each stat(2) was answered, and with that
    the next one, too."""
    world = World()
    world.tries.refused(THREAD, FILE, lasts_s=OTHER_WITHIN_S)
    world.look_up(NAME, OTHER)
    assert world.expected(OTHER)
    assert not world.expected(OTHER, THREAD + 1)
    world.now_s += OTHER_WITHIN_S
    assert not world.expected(OTHER)
    world.tries.refused(THREAD, FILE)
    world.look_up(NAME, OTHER)
    with world.tries.serving(THREAD, OTHER):
        assert world.tries.is_second_try(THREAD, OTHER)
        assert world.tries.expects(OTHER)
    assert not world.expected(OTHER)


def test_a_walk_follows_a_symbolic_link_once_each_time_it_is_named() -> None:
    """Another call that has the link from the kernel's cache is none of the walk's."""
    world = World()
    assert not world.tries.follows(THREAD, OTHER)
    world.tries.refused(THREAD, OTHER)
    for _ in range(2):
        world.look_up(NAME, OTHER, leads_on=True)
        assert not world.tries.follows(THREAD, FILE)
        assert not world.tries.follows(THREAD + 1, OTHER)
        assert world.tries.follows(THREAD, OTHER)
        assert not world.tries.follows(THREAD, OTHER)
    world.look_up((DIRECTORY, b"target"), FILE)
    assert world.tries.is_second_try(THREAD, FILE)


def test_a_symbolic_link_without_a_name_is_read_at_the_second_try() -> None:
    world = World()
    world.tries.refused(THREAD, OTHER, lasts_s=OTHER_WITHIN_S)
    assert world.tries.follows(THREAD, OTHER)
    world.tries.refused(THREAD, OTHER, lasts_s=OTHER_WITHIN_S)
    world.now_s += OTHER_WITHIN_S + 0.1
    assert not world.tries.follows(THREAD, OTHER)
