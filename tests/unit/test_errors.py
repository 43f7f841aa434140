"""Every kind of error has the exit code of the contract."""

from __future__ import annotations

from disttrain import errors


def test_exit_codes_are_those_of_the_contract() -> None:
    codes = {
        kind.__name__: kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.DisttrainError)
    }
    assert codes == {
        "DisttrainError": 1, "ConfigError": 2, "DataError": 3, "DivergedError": 4, "IntegrityError": 5,
        "Preempted": 143, "PeerLostError": 144,
    }  # fmt: skip


def test_an_unknown_name_is_answered_with_the_nearest_and_all_valid_ones() -> None:
    assert errors.unknown_name("model", "cnm", ["mlp", "cnn"]) == (
        "unknown model 'cnm'. Did you mean 'cnn'? Valid: cnn, mlp."
    )
    assert errors.unknown_name("model", "transformer", ["mlp", "cnn"]) == (
        "unknown model 'transformer'. Valid: cnn, mlp."
    )
