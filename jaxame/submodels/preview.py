"""What a run will cost, before it starts."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Preview:
    """The cost of training submodels, measured on the first round.

    Attributes:
      num_submodels: `M`.
      seconds: to train them, from one timed round; compilation not included.
      seconds_to_compile: what the first round took longer; paid once, and already when this is seen.
      num_bytes: memory that training takes on each device, as the compiler counts it.
      num_devices: devices that train.
      tile: submodels trained at once on a device.
      piece: examples whose gradient is taken at once.
      feed: `"masked"` or `"gathered"`.
      lowering: of convolutions, `"patches"` or `"native"`.
    """

    num_submodels: int
    seconds: float
    seconds_to_compile: float
    num_bytes: int
    num_devices: int
    tile: int
    piece: int
    feed: str
    lowering: str

    @property
    def submodels_per_second(self) -> float:
        """Rate of the timed round."""
        return self.num_submodels / self.seconds

    def __str__(self) -> str:
        return (
            f"{self.num_submodels:,} submodels in about {self.seconds:,.1f} s ({self.submodels_per_second:,.3g} per "
            f"second), {self.num_bytes / 2**20:,.0f} MiB on each of {self.num_devices} devices "
            f"({self.feed} feed, convolutions: {self.lowering}, tiles of {self.tile}, pieces of {self.piece} examples)"
        )
