"""The hybrid protocol: one method while the learning rate is large, another once it is small.

Song, Sebe and Wang (ICCV 2021) train with Newton–Schulz until the learning rate is small and the covariances are
well-conditioned, then go on with the exact root. `HybridSchedule` does that inside one run: a *rule* says when, the
schedule switches every pool of every copy of the model, once and for good.

Example, with a timm scheduler::

    def make_scheduler(optimizer):
        return create_scheduler_v2(optimizer, sched='cosine', num_epochs=epochs)[0]

    hybrid = HybridSchedule(model, warm='isqrt', switch=LearningRateFraction(0.1))
    hybrid.check(preview_learning_rates(optimizer, make_scheduler, epochs), epochs)
    scheduler = make_scheduler(optimizer)
    for epoch in range(epochs):
        if hybrid.step(base_learning_rate(optimizer), epoch):
            print(f'epoch {epoch}: {hybrid.method} from here on')
        train_one_epoch(model)
        scheduler.step(epoch + 1)
"""

from .monitor import ConditioningMonitor, conditioning
from .options import HybridOptions
from .preview import base_learning_rate, preview_learning_rates
from .rules import AtEpoch, ConditioningSettles, History, LastDecay, LearningRateFraction, SwitchRule
from .schedule import HybridSchedule

__all__ = [
    "AtEpoch",
    "ConditioningMonitor",
    "ConditioningSettles",
    "History",
    "HybridOptions",
    "HybridSchedule",
    "LastDecay",
    "LearningRateFraction",
    "SwitchRule",
    "base_learning_rate",
    "conditioning",
    "preview_learning_rates",
]
