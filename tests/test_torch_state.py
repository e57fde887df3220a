"""Runs and evaluations under any settings of torch: the results of a fresh process, and the settings restored."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

import ddsdk as dd
from ddsdk.foundation import steps_in_plain_torch
from ddsdk.running import Run


@contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def settings():
    """All settings of torch that a notebook may change and that a run must neither obey nor change."""
    return (
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
    )


STATES = {
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "no gradients": torch.no_grad,
    "inference mode": torch.inference_mode,
    "default device": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}
METHODS = {
    "dm": dd.DM(ipc=1, steps=2, real_batch=4),
    "dc": dd.DC(ipc=1, students=1, real_batch=4),
    "frepo": dd.FRePo(ipc=1, steps=2, real_batch=4),
    "krr": dd.KRR(ipc=1),
    "mtt": dd.MTT(ipc=1, steps=2, student_steps=2, experts=2, expert_epochs=3),
    "k-means": dd.BASELINES["k-means"](ipc=1),
}


def made(method, tiny, make_student):
    needs = make_student if method.uses_networks() else None
    return dd.distill(method, tiny, make_student=needs, seed=0, validation=None)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_does_not_depend_on_the_settings_and_restores_them(tiny, make_student, method):
    expected = made(METHODS[method], tiny, make_student).content_id
    for name, state in STATES.items():
        with state():
            before = settings()
            distilled = made(METHODS[method], tiny, make_student)
            assert settings() == before
        assert distilled.content_id == expected, name


@pytest.mark.parametrize("state", STATES)
def test_loading_and_evaluation_do_not_depend_on_the_settings(state):
    protocol = dd.TrainingProtocol(network_options={"width": 4}, networks=1, epochs=1, augmentation="crop")
    kernel = dd.TrainingProtocol(network="fc-ntk", network_options={"depth": 2}, learner="kernel")

    def scores():
        train, test = dd.load_pair("digits")
        distilled = dd.distill(dd.BASELINES["random"](ipc=1), train, seed=0)
        return distilled.content_id, *(distilled.evaluate(test, p).accuracies for p in (protocol, kernel))

    plain = scores()
    with STATES[state]():
        before = settings()
        assert scores() == plain
        assert settings() == before


def test_the_application_has_its_settings_between_steps_and_after_errors(tiny, make_student):
    losses = list(Run(dd.DM(ipc=1, steps=2, real_batch=4), tiny, make_student=make_student, seed=0))
    with torch.no_grad(), default_dtype(torch.float64):
        run = Run(dd.DM(ipc=1, steps=2, real_batch=4), tiny, make_student=make_student, seed=0)
        for _ in run:
            assert (torch.is_grad_enabled(), torch.get_default_dtype()) == (False, torch.float64)
        # A loop that is taken out of its run is the same.
        loop = Run(dd.DM(ipc=1, steps=2, real_batch=4), tiny, make_student=make_student, seed=0).distillation
        assert [step.loss for step in loop] == [step.loss for step in losses]
        with pytest.raises(ValueError, match="ipc must not exceed"):
            dd.distill(dd.BASELINES["random"](ipc=1000), tiny, seed=0)
        assert (torch.is_grad_enabled(), torch.get_default_dtype()) == (False, torch.float64)
        inside = steps_in_plain_torch(torch.is_grad_enabled() for _ in range(2))
        assert [(now, torch.is_grad_enabled()) for now in inside] == [(True, False)] * 2
