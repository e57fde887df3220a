"""What cannot run is refused before anything is spent, and what reveals records by the way is not published."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest
import torch
from private_records import HUGE, PUBLIC, flat, records, sealed, student

import ddsdk as dd
from ddsdk.artefact import NoisedRelease
from ddsdk.foundation import ResumeError
from ddsdk.objectives import ClassMatch, mean_embedding, squared
from ddsdk.running import Run
from ddsdk.students import FreshStudents
from ddsdk_integrations.privacy import DPKIP, NDPDC, PSG, Budget, Ledger, dp_sgd
from ddsdk_integrations.privacy.accounting import certified_epsilon, epsilon_of
from ddsdk_integrations.privacy.recipe import PUBLISHED_PROVENANCE
from ddsdk_integrations.privacy.refusals import PrivacyError

RECIPES = {
    "ndpdc": NDPDC(ipc=1, releases=3, steps=4),
    "psg": PSG(ipc=1, students=2, steps_per_student=2, student_epochs=1, sample_rate=0.3),
    "dp-kip": DPKIP(ipc=1, steps=3, sample_rate=0.3),
    "dp-kip on features": DPKIP(ipc=1, steps=3, sample_rate=0.3, features=True),
}
ONE = Budget(epsilon=1, delta=1e-3)


@pytest.fixture(params=RECIPES, name="recipe")
def each_recipe(request):
    return RECIPES[request.param]


def run(recipe, private, **how):
    return dd.distill(recipe, private, **{"make_student": student(), "seed": 0, **how})


def colour(rng):
    return dd.network_factory("convnet", (3, 8, 8), 3, width=4, depth=1)(rng)


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "dp-kip"])
def test_a_network_that_does_not_fit_the_images_costs_nothing(name):
    private = sealed(budget=ONE)
    with pytest.raises(RuntimeError, match="3 channels"):
        run(RECIPES[name], private, make_student=colour)
    with pytest.raises(RuntimeError, match="3 channels"):
        RECIPES[name].plan(private, make_student=colour, rng=dd.generator(0))
    assert private.ledger.releases == ()


def test_a_classifier_that_does_not_fit_costs_nothing():
    private = sealed(budget=ONE)
    with pytest.raises(RuntimeError, match="3 channels"):
        dp_sgd(private, make_student=colour, steps=2)
    assert private.ledger.releases == ()


def test_rows_are_checked_without_a_payment():
    private = sealed(budget=ONE)
    private.check_rows(flat, 64)
    for rows, kind, message in (
        (lambda batch: flat(batch)[:, :3], ValueError, r"rows must have shape \(32, 64\), got \(32, 3\)"),
        (lambda batch: flat(batch).sum(), ValueError, r"rows must have shape"),
        (lambda batch: flat(batch).long(), ValueError, "rows must be floating point"),
        (lambda batch: flat(batch) - flat(batch).mean(0), PrivacyError, "rows must depend on one record each"),
        (lambda batch: batch.x.flatten(1) @ torch.zeros(3, 64), RuntimeError, "shapes cannot be multiplied"),
    ):
        with pytest.raises(kind, match=message):
            private.check_rows(rows, 64)
    assert private.ledger.releases == ()
    made = private.mechanism("flat", releases=1, sample_rate=1.0, noise_multiplier=50.0)
    with pytest.raises(ValueError, match="rows must have shape"):
        made.noised_sum(lambda batch: flat(batch)[:, :3], 64)
    assert made.left == 1


def test_a_refused_plan_costs_nothing(recipe):
    match = ClassMatch(byproduct=mean_embedding, distance=squared, real_batch=4)
    changes = (
        ({"validate": lambda syn: 0.0}, "plan must not validate"),
        ({"finish": lambda syn, rng: syn}, "plan must not finish a set"),
        ({"objective": match, "students": FreshStudents(student())}, "private records must not leave the mechanism"),
    )
    private = sealed(budget=ONE)
    for change, words in changes:
        with pytest.raises(PrivacyError, match=words):
            run(recipe, private, transform=lambda plan, change=change: dataclasses.replace(plan, **change))
    with pytest.raises(KeyError):
        run(recipe, private, transform=lambda plan: {}["a plan"])
    with pytest.raises(AttributeError):
        run(recipe, private, transform=lambda plan: None)
    assert private.ledger.releases == ()
    run(recipe, private, transform=lambda plan: dataclasses.replace(plan, clip_norm=1.0))
    assert 0.9 < private.ledger.epsilon <= 1


def test_rows_of_a_changed_plan_that_mix_records_cost_nothing():
    private = sealed(budget=ONE)

    @dataclasses.dataclass(frozen=True)
    class Mixed:
        objective: object

        def __call__(self, student, real, syn, rng):
            rows = self.objective.record_gradients

            def mixed(batch):
                found = rows(student, dd.Batch(*(part.detach() for part in syn.whole(rng))), batch)
                return found - found.mean(0)

            yield (syn.whole(rng)[0] * self.objective.mechanism.noised_sum(mixed, 3 * 64).view(3, 1, 8, 8)).sum()

    with pytest.raises(PrivacyError, match="rows must depend on one record each"):
        run(RECIPES["dp-kip"], private, transform=lambda p: dataclasses.replace(p, objective=Mixed(p.objective)))
    assert private.ledger.releases == ()


def test_the_rehearsal_reads_no_record():
    """Every record as a batch passes through here, and the rehearsal makes none of them."""
    private = sealed()
    private._real.batch = lambda index: pytest.fail("a record was read")
    for recipe in RECIPES.values():
        recipe.rehearse(private, make_student=student(), rng=dd.generator(0), transform=lambda plan: plan)
    assert private.ledger.releases == ()


def digits(n=60):
    return dd.load("digits").with_preprocess(dd.Preprocess.unit(1)).subset(torch.arange(n))


def like(real, images, **how):
    given = {"class_names": real.class_names, "preprocess": real.preprocess, "name": "postcards"}
    return dd.RealData(images, real.labels, **{**given, **how})


COPIES = {
    "the same": lambda real: real,
    "a clone": lambda real: like(real, real.images.clone()),
    "a permutation": lambda real: real.subset(torch.arange(len(real)).flip(0)),
    "a second load": lambda real: digits(),
    "another value space": lambda real: digits().with_preprocess(PUBLIC),
    "rounded to uint8": lambda real: like(real, (255 * real.images).round().to(torch.uint8)),
    "cut off to uint8": lambda real: like(real, (255 * real.images).to(torch.uint8)),
    "half precision": lambda real: like(real, real.images.half()),
    "double precision": lambda real: like(real, real.images.double()),
    "there and back": lambda real: like(real, PUBLIC.inverse(PUBLIC(real.images)).clamp(0, 1)),
    "other classes": lambda real: dd.RealData(
        real.images.clone(), torch.zeros(60, dtype=torch.int64), class_names="a", preprocess=real.preprocess
    ),
}


@pytest.mark.parametrize("name", COPIES)
def test_records_in_any_form_are_not_public_images(name):
    real = digits()
    with pytest.raises(PrivacyError, match=r"public must not hold records, got '.*', where 60 of 60 images"):
        sealed(real, public=COPIES[name](real))
    if name == "cut off to uint8":
        return
    as_bytes = like(real, (255 * real.images).round().to(torch.uint8))
    with pytest.raises(PrivacyError, match="public must not hold records"):
        sealed(as_bytes, public=COPIES[name](real))


def test_one_record_among_public_images_is_found_and_named():
    real = dd.load("digits").with_preprocess(dd.Preprocess.unit(1))
    rest, held = real.subset(torch.arange(100)), torch.arange(200, 300)
    sealed(rest, public=real.subset(held), class_size=10)
    with pytest.raises(
        PrivacyError, match=r"where 1 of 101 images have the pixels of a record, the first at position 3"
    ):
        sealed(rest, public=real.subset(torch.cat([held[:3], torch.tensor([7]), held[3:]])), class_size=10)
    # Changed images are beyond this check, and the page says so.
    sealed(rest, public=like(rest, rest.images.flip(3)), class_size=10)


def test_the_provenance_of_more_records_and_a_slower_run_is_the_same(recipe):
    found = [run(recipe, sealed(records(n), budget=ONE)).provenance for n in (40, 70)]
    assert found[0] == found[1]
    assert found[0]["seconds"] is None
    assert found[0]["steps_done"] is None
    assert {name for name, value in found[0].items() if value is not None} <= set(PUBLISHED_PROVENANCE)
    assert set(PUBLISHED_PROVENANCE) <= set(found[0])
    assert found[0]["data"] == {"name": "data"}


def test_a_state_of_another_run_is_refused_and_pays_nothing(recipe, tmp_path):
    private = sealed(budget=HUGE)
    recipe = dataclasses.replace(recipe, noise_multiplier=50.0)
    first = Run(recipe, private, make_student=student())
    next(first)
    state, paid = first.state_dict(), private.ledger.releases
    second = Run(recipe, private, make_student=student())
    with pytest.raises(ResumeError, match=r"state must be of this run of .*, whose steps are taken once"):
        second.load_state_dict(state)
    with dd.Job(tmp_path, {}) as job:
        next(job.steps(first))
    with dd.Job(tmp_path, {}, resume=True) as job, pytest.raises(ResumeError, match="state must be of this run"):
        next(job.steps(Run(recipe, private, make_student=student())))
    assert private.ledger.releases == paid
    # Nor does a run that has paid take the set of another, which its own ledger may not count.
    next(second)
    with pytest.raises(ResumeError, match="state must be of this run"):
        second.load_state_dict(state)


def test_a_run_that_goes_back_makes_no_further_release():
    private = sealed(budget=HUGE)
    back = Run(dataclasses.replace(RECIPES["psg"], noise_multiplier=50.0), private, make_student=student())
    next(back)
    state = back.state_dict()
    next(back), next(back)
    back.load_state_dict(state)
    next(back)
    with pytest.raises(RuntimeError, match="all 4 releases of gradients are made"):
        list(back)
    assert [release.count for release in private.ledger.releases] == [4]


@pytest.mark.parametrize("accountant", ["rdp", "prv"])
def test_epsilon_of_a_certificate_is_that_of_its_own_accountant(accountant):
    private = sealed(budget=Budget(epsilon=2, delta=1e-3, accountant=accountant))
    private.mechanism("a", releases=30, sample_rate=0.1, noise_multiplier=2.0)
    found = private.certificate
    assert certified_epsilon(found) == found.epsilon == private.ledger.epsilon
    assert certified_epsilon(found, "prv") < certified_epsilon(found, "rdp")
    for name in ("GDP accountant", "rdpx (opacus 1.6)", ""):
        with pytest.raises(ValueError, match="accountant must be given for a certificate of neither"):
            certified_epsilon(msgspec.structs.replace(found, accountant=name))
    with pytest.raises(ValueError, match="accountant must be rdp or prv, got 'gdp'"):
        certified_epsilon(found, "gdp")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise_multiplier": 1e-155}, r"noise_multiplier must lie in 1e-12\.\.1e\+09"),
        ({"noise_multiplier": 1e200}, r"noise_multiplier must lie in 1e-12\.\.1e\+09"),
        ({"sample_rate": 1e-300}, "sample_rate must be at least 1e-12"),
        ({"count": 10**13}, "count must be at most 1000000000000"),
    ],
)
def test_releases_beyond_the_accountants_are_refused(change, message):
    usual = {"what": "a", "clip": 1.0, "noise_multiplier": 1.0, "sample_rate": 0.5, "count": 1}
    with pytest.raises(ValueError, match=message):
        NoisedRelease(**{**usual, **change})
    private = sealed()
    if "noise_multiplier" in change:
        with pytest.raises(ValueError, match=message):
            run(dataclasses.replace(RECIPES["psg"], **change), private)
        assert private.ledger.releases == ()


@pytest.mark.parametrize("noise", [1e-12, 19.0, 21.0, 1e3, 1e6, 1e9])
@pytest.mark.parametrize(("rate", "count"), [(1e-12, 1), (0.5, 1), (1 - 1e-9, 1), (1.0, 1), (0.01, 10**12)])
def test_the_accountant_answers_for_all_that_is_allowed(noise, rate, count):
    found = epsilon_of(((noise, rate, count),), 1e-5, "rdp")
    assert 0 <= found < float("inf")


@pytest.mark.parametrize(("rate", "count"), [(0.02, 1000), (0.2, 3000), (0.5, 100)])
def test_whole_orders_bound_fractional_ones_closely(rate, count):
    """Above a noise of 20 the divergence of a fractional order is bounded by that of the next whole one."""
    from ddsdk_integrations.privacy import accounting

    histories = [((noise, rate, count),) for noise in (20.0, 20.0 + 1e-9)]
    below, above = (epsilon_of(history, 1e-5, "rdp") for history in histories)
    assert below * (1 - 1e-6) <= above <= 1.1 * below + 1e-6
    assert accounting._WHOLE_ORDERS_ABOVE == 20.0


def test_a_ledger_is_opened_before_a_run_and_not_at_its_first_release(tmp_path):
    with pytest.raises(ValueError, match="path must lie in an existing folder"):
        Ledger(ONE, tmp_path / "none" / "ledger.json")
