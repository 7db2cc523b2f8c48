"""The picture of the status page in the documents is of the page as it is; `bin/test page` makes it."""

import page


def test_the_picture_is_of_the_page_as_it_is():
    assert page.stamp(page.PICTURE.read_bytes()) == page.digest(), "the page has changed: run bin/test page"


def test_a_picture_that_is_stamped_is_the_same_picture():
    png = page.PICTURE.read_bytes()
    again = page.stamped(png, "other")
    assert page.stamp(again) == page.digest()
    plain = b"".join([png[:8], *(whole for kind, _, whole in page.chunks(png) if kind != b"tEXt")])
    assert page.stamp(plain) is None
    assert page.stamp(page.stamped(plain, "x")) == "x"
    assert [kind for kind, _, _ in page.chunks(page.stamped(plain, "x"))][-1] == b"IEND"
