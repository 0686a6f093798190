"""A line whose weights were trained together with the item space that it reads."""

from models.items.saved import fitted_until, read_manifest, saved
from models.items.spec import Trained as TrainedSpace
from models.layers.build import build
from models.lines import encoder_of
from models.spec import Aggregator, Learned
from models.training.train import Trained
from transformations.config import Config


def trained_with_space(aggregator: Aggregator, config: Config) -> Trained | None:
    """Return a line's weights where its item space was trained through the same layer; else None.

    One training makes the fits of both, so nothing is trained here. The line may differ from the
    space's layer in its name, its version and its recipe, which that training does not read.

    Args:
        config: In the line's space, which is fitted.
    """
    line = encoder_of(config, config.space)
    if not isinstance(line, TrainedSpace) or not isinstance(aggregator, Learned):
        return None
    if not line.trains(aggregator):
        return None
    from models.items.trained import Trained as FittedSpace  # and scikit-learn

    encoder, until, manifest = saved(config), fitted_until(config), read_manifest(config)
    if not isinstance(encoder, FittedSpace) or until is None or manifest is None:
        return None
    model = build(aggregator, config)
    model.set_weights(encoder.layer_weights)
    return Trained(
        model=model,
        trained_until=until,
        metrics={"loss": manifest["losses"][-1], "epochs": len(manifest["losses"])},
        history={"with_space": [{"loss": loss} for loss in manifest["losses"]]},
        figures={"labels": manifest["labels"], "space": str(config.space)},
    )
