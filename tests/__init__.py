"""The tests of hpccarbon. A package, so that tests share helpers by name."""
