"""Faults of clocks: the boot-time clock of a host drifts, jumps forward, or stands; it never goes back."""

from __future__ import annotations

from simulation.scene import Scene

LASTS_US = (2_000_000, 12_000_000)
STOPS_US = (500_000, 5_000_000)
LONGEST_STEP_S = 3_600
"""Far more than the ten minutes that a retry's name is kept: cluster time does not leap with a clock."""


def _rate(scene: Scene, name: str, rate: float, us: tuple[int, int] = LASTS_US) -> None:
    node = scene.random.choice(scene.nodes)
    node.clock.turn(rate)
    scene.last(name, us, lambda: node.clock.turn(1.0))


def fast(scene: Scene) -> None:
    _rate(scene, "clock-fast", 1.0 + scene.random.random())


def slow(scene: Scene) -> None:
    _rate(scene, "clock-slow", 0.5 + scene.random.random() / 2.5)


def stop(scene: Scene) -> None:
    _rate(scene, "clock-stop", 0.0, STOPS_US)


def step(scene: Scene) -> None:
    node = scene.random.choice(scene.nodes)
    node.clock.turn(node.clock.rate, scene.random.choice([1, 10, LONGEST_STEP_S]) * 1_000_000)
    scene.strike("clock-step")


FAULTS = {"clock-fast": fast, "clock-slow": slow, "clock-stop": stop, "clock-step": step}
