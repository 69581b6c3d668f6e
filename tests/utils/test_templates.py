"""What a template is given is shown as text."""

import jinja2
import pytest

from causalvae_pyro import CausalGraph
from causalvae_pyro.evaluation.tables import Section
from causalvae_pyro.utils.templates import code_span, render

BAD = "<img src=x onerror=alert(1)> & \"'"


def test_html_is_escaped_in_the_report():
    values = {
        "graph": CausalGraph(["a", "b"], [("a", "b")]),
        "counterfactuals": True,
        "chosen": BAD,
        "sections": [Section(BAD, [BAD], [[BAD]])],
        "figures": [(BAD, BAD, BAD)],
        "config": BAD,
    }
    page = render("causalvae_pyro.evaluation", "report.html", **values)
    # The picture is the template's own.
    assert page.count("<img") == 1
    assert "<img src=x" not in page
    assert page.count("&lt;img src=x onerror=alert(1)&gt; &amp; &#34;&#39;") == 9
    assert "<p>Concepts: a, b. Edges: a → b.</p>" in page
    # A name that the template needs and does not get is an error.
    with pytest.raises(jinja2.UndefinedError, match="config"):
        render("causalvae_pyro.evaluation", "report.html", **{name: value for name, value in values.items() if name != "config"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("light", "`light`"),
        ("a\n\n# b", "`a # b`"),
        ("a|b", "`a|b`"),
        ("`a`", "`` `a` ``"),
        ("a``b`c", "```a``b`c```"),
        ("", "` `"),
        (3, "`3`"),
    ],
)
def test_code_spans(text, expected):
    assert code_span(text) == expected
    assert code_span(text, cell=True) == expected.replace("|", "\\|")
