"""One contract for every private recipe: it runs, spends what it says, starts in public, and certifies its set."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from private_records import HUGE, PUBLIC, records, sealed, student

import ddsdk as dd
from ddsdk.foundation import DivergedError
from ddsdk.objectives import ClassMatch, mean_embedding, squared
from ddsdk.running import Run
from ddsdk.students import FreshStudents
from ddsdk_integrations.privacy import DPKIP, NDPDC, PSG
from ddsdk_integrations.privacy.budget import Budget, BudgetSpentError
from ddsdk_integrations.privacy.refusals import PrivacyError

ONE = Budget(epsilon=1, delta=1e-3)
RECIPES = {
    "ndpdc": NDPDC(ipc=2, releases=4, steps=6),
    "ndpdc from noise": NDPDC(ipc=2, releases=4, steps=6, start="noise", centred=False, augmentation="flip"),
    "ndpdc in a public subspace": NDPDC(ipc=1, releases=4, steps=6, start="public", directions=3),
    "psg": PSG(ipc=2, students=2, steps_per_student=3, lesson_every=2, student_epochs=1, sample_rate=0.3),
    "psg by class": PSG(
        ipc=2, students=2, steps_per_student=3, student_epochs=1, sample_rate=0.3, classwise=True, augmentation="flip"
    ),
    "dp-kip": DPKIP(ipc=2, steps=4, sample_rate=0.3),
    "dp-kip on features": DPKIP(ipc=2, steps=4, sample_rate=0.3, features=True),
}


def public():
    return dd.RealData(
        torch.rand(9, 1, 8, 8, generator=dd.generator("public")),
        torch.zeros(9, dtype=torch.int64),
        class_names=("anything",),
        preprocess=dd.Preprocess.unit(1),
        name="postcards",
    )


def shown(budget=ONE, **how):
    """Sealed records, beside images that everybody may see."""
    return sealed(budget=budget, **{"public": public(), **how})


def run(recipe, private, **how):
    usual = {"make_student": student(), "seed": dd.generator("run")}
    return dd.distill(recipe, private, **{**usual, **how})


@pytest.fixture(params=RECIPES, name="recipe")
def each_recipe(request):
    return RECIPES[request.param]


def test_a_run_spends_the_budget_and_certifies_its_set(recipe, tmp_path):
    private = shown()
    distilled = run(recipe, private)
    assert distilled.images.shape == (3 * recipe.ipc, 1, 8, 8)
    assert 0.9 < private.ledger.epsilon <= 1
    assert distilled.certificate == private.certificate
    assert distilled.certificate.delta == 1e-3
    steps = sum(r.count for r in distilled.certificate.releases)
    assert steps == {"ndpdc": 4, "psg": 6, "dp-kip": 4}[recipe.name] + (getattr(recipe, "start", "") == "means")
    distilled.save(tmp_path)
    again = dd.Distilled.load(tmp_path)
    assert again.certificate == distilled.certificate
    assert "differential privacy" in again.privacy
    # A second run is a second release of the same records.
    with pytest.raises(BudgetSpentError, match="is spent"):
        run(recipe, private)


def test_nothing_of_the_records_is_in_the_provenance(recipe):
    real = records()
    distilled = run(recipe, shown(real=real))
    assert distilled.provenance["data"] == {"name": "data"}
    told = str(distilled.provenance) + str(distilled.certificate)
    assert real.fingerprint not in told
    assert "40" not in str(distilled.provenance["data"])


def test_a_noise_multiplier_may_be_given(recipe):
    private = shown(budget=HUGE)
    run(dataclasses.replace(recipe, noise_multiplier=50.0), private)
    assert private.ledger.releases[-1].noise_multiplier == 50.0


def test_sets_differ_from_run_to_run_for_their_noise_has_no_seed(recipe):
    one, two = (run(recipe, shown()) for _ in range(2))
    assert not torch.equal(one.images, two.images)


def test_the_global_generator_changes_nothing_and_is_left_alone(recipe):
    before = torch.random.get_rng_state()
    run(recipe, shown())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_open_records_are_refused(recipe):
    with pytest.raises(PrivacyError, match="real must be PrivateData, got RealData"):
        run(recipe, records())


@pytest.mark.parametrize("start", ["real", "k-means", "herding"])
@pytest.mark.parametrize("kind", [NDPDC, PSG, DPKIP])
def test_a_start_from_records_is_refused(kind, start):
    with pytest.raises(PrivacyError, match="images that begin as records are records"):
        kind(start=start)


def test_unpaid_means_and_unknown_starts_are_refused():
    with pytest.raises(PrivacyError, match="images that begin as records are records"):
        PSG(start="means")
    with pytest.raises(PrivacyError, match="start must be one of means, noise, public, got 'x'"):
        NDPDC(start="x")


def test_a_public_start_needs_public_images_and_says_so():
    recipe, private = RECIPES["ndpdc in a public subspace"], sealed(budget=ONE)
    with pytest.raises(PrivacyError, match="public must be given to PrivateData for a start from public images"):
        run(recipe, private)
    with pytest.raises(PrivacyError, match="public must be given to PrivateData for directions=3"):
        run(NDPDC(ipc=1, directions=3), private)
    assert private.ledger.releases == ()
    assert "the images called 'postcards' are public" in run(recipe, shown()).certificate.assumptions


def test_a_public_start_is_public_images_in_the_value_space_of_the_records():
    private = shown(budget=HUGE)
    syn = PSG(ipc=2, start="public").plan(private, make_student=student(), rng=dd.generator("plan")).syn
    images = PUBLIC(public().images)
    for image in syn.parametrization.images.detach():
        assert bool((images == image).flatten(1).all(1).any())


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "dp-kip"])
def test_networks_that_will_not_do_are_refused_before_anything_is_spent(name):
    recipe = RECIPES[name]
    private = shown()
    with pytest.raises(PrivacyError, match="network must treat records one by one, got BatchNorm2d"):
        run(recipe, private, make_student=student(norm="batch"))
    if not isinstance(recipe, PSG):
        with pytest.raises(TypeError, match="make_student must build networks with embed, got Flatten"):
            run(recipe, private, make_student=lambda rng: torch.nn.Flatten())
    assert private.ledger.releases == ()


def test_too_little_noise_is_refused_before_the_means_are_released():
    private = shown()
    with pytest.raises(BudgetSpentError, match="class means and 4 releases of class sums"):
        run(NDPDC(ipc=1, releases=4, steps=2, noise_multiplier=0.3), private)
    assert private.ledger.releases == ()


def test_a_step_that_is_not_finite_costs_no_second_release():
    private = shown()
    wild = PSG(ipc=1, students=2, steps_per_student=3, sample_rate=0.3, image_lr=1e38)
    with pytest.raises(DivergedError) as caught:
        run(wild, private)
    assert bool(torch.isfinite(caught.value.syn.parametrization.images).all())


def test_selection_on_held_out_records_is_refused(recipe):
    for change, words in (
        ({"validate": lambda syn: 0.0}, "plan must not validate"),
        ({"finish": lambda syn, rng: syn}, "plan must not finish a set"),
    ):
        with pytest.raises(PrivacyError, match=words):
            run(recipe, shown(), transform=lambda plan, change=change: dataclasses.replace(plan, **change))


def test_options_that_bypass_the_ledger_are_refused_before_anything_is_spent(recipe):
    private = shown()
    earlier = (torch.rand(3, 1, 8, 8), torch.arange(3))
    with pytest.raises(PrivacyError, match=r"start must be left out .* PrivateData as public="):
        run(recipe, private, start=earlier)
    with pytest.raises(PrivacyError, match="validation must be left out for private records"):
        run(recipe, private, validation=dd.Validation(held=records()))
    # A trial of the steps would spend them.
    with pytest.raises(ValueError, match=r"budget must be left out for .*, whose steps are taken once"):
        run(recipe, private, budget=60.0)
    with pytest.raises(ValueError, match="whose steps are taken once"):
        Run(recipe, private, make_student=student()).estimate()
    assert private.ledger.releases == ()
    run(recipe, private)


def test_a_run_pays_once_however_often_it_is_read(recipe):
    private = shown()
    run = Run(recipe, private, make_student=student())
    one = run.complete()
    paid = private.ledger.releases
    two = run.distilled()
    run.state_dict()
    assert private.ledger.releases == paid
    assert torch.equal(one.images, two.images)


def test_a_run_that_is_stopped_early_is_certified_for_all_that_it_paid():
    private = shown()
    found = run(RECIPES["psg"], private, stop=lambda: True)
    # The number of steps that a clock leaves time for depends on the number of records.
    assert found.provenance["steps_done"] is None
    assert found.certificate == private.certificate
    assert found.certificate.releases[0].count == 6


def test_the_usual_network_is_that_of_the_recipes_protocol(recipe):
    private = shown(budget=HUGE)
    found = dd.distill(dataclasses.replace(recipe, noise_multiplier=50.0), private)
    assert found.provenance["student"]["network"] == "convnet"


def test_a_plan_that_draws_records_is_refused():
    """The engine's own objectives ask the real source, which is sealed."""
    match = ClassMatch(byproduct=mean_embedding, distance=squared, real_batch=4)

    def opened(plan):
        return dataclasses.replace(plan, objective=match, students=FreshStudents(student()))

    with pytest.raises(PrivacyError, match="private records must not leave the mechanism"):
        run(RECIPES["ndpdc"], shown(), transform=opened)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NDPDC(ipc=0), "ipc must be at least 1"),
        (lambda: NDPDC(releases=0), "releases must be at least 1"),
        (lambda: NDPDC(means_share=1.0), "means_share must lie strictly between 0 and 1"),
        (lambda: PSG(clip=0), "clip must"),
        (lambda: PSG(sample_rate=0), "sample_rate must lie in 0 < value <= 1"),
        (lambda: DPKIP(noise_multiplier=-1.0), "noise_multiplier must"),
        (lambda: DPKIP(steps=0), "steps must be at least 1"),
    ],
)
def test_bad_parameters_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
