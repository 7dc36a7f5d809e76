"""Reading YAML whose values stay what is written there.

YAML 1.1 takes `0100` for 64, `12:30` for 750 and `no` for false. A setting is text
until its own type reads it, as it is in a variable.
"""

from typing import Any

import yaml
from typing_extensions import override


class NamedTwice(yaml.MarkedYAMLError):
    """A name stands twice in one mapping, so that one of its values would be lost without a word."""


class _AsWritten(yaml.SafeLoader):
    """Takes an unquoted value for text, but for nothing at all, which is null."""

    @override
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Insist on names that differ."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise NamedTwice(problem=f"{key.value} is set twice", problem_mark=key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return super().construct_mapping(node, deep)


_AsWritten.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag.endswith((":null", ":merge"))]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(text: str) -> Any:  # noqa: ANN401 - whatever stands there
    """Read a document of which every value is text, null, a list or a mapping. Raises `yaml.YAMLError`."""
    return yaml.load(text, Loader=_AsWritten)  # noqa: S506 - a kind of SafeLoader
