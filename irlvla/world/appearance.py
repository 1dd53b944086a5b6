"""How the world looks in one log: weather, time of day, palettes, and the camera's own response.

Everything is drawn at random for each log, so that a street learned in one log is not recognised by its colours in the
next. Light is linear: albedo and radiance, not pixel values; `white_balance` and `exposure` turn radiance into what
the camera stores.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

TimeOfDay = Literal["day", "low sun", "dusk", "night"]
Sky = Literal["clear", "fair", "overcast"]

# Colours by class; each log takes one palette of a class and jitters it.
_FOLIAGE = np.array([[52, 78, 38], [64, 88, 44], [74, 92, 40], [58, 74, 46], [96, 92, 42], [120, 92, 40]])
_LAWN = np.array([[84, 104, 58], [98, 112, 62], [126, 122, 78], [140, 126, 92], [92, 98, 66]])
_ASPHALT = np.array([[88, 88, 89], [98, 97, 96], [110, 108, 104], [80, 81, 84], [104, 101, 97]])
_PAVING = np.array([[158, 152, 144], [172, 166, 156], [146, 146, 146], [168, 150, 132], [150, 140, 132]])
_FACADES = np.array(
    [
        [[188, 170, 148], [172, 138, 112], [206, 200, 188], [150, 150, 152], [196, 178, 150], [160, 120, 98]],
        [[214, 206, 194], [190, 186, 178], [168, 164, 160], [226, 218, 200], [142, 132, 124], [178, 160, 140]],
        [[150, 92, 74], [168, 112, 88], [132, 84, 70], [186, 150, 124], [120, 104, 96], [196, 182, 164]],
        [[208, 184, 140], [196, 160, 120], [222, 206, 170], [176, 148, 118], [204, 196, 184], [158, 134, 110]],
        [[158, 168, 176], [132, 140, 150], [188, 192, 196], [112, 120, 130], [206, 208, 208], [146, 150, 148]],
        [[190, 166, 156], [176, 182, 172], [208, 198, 168], [168, 174, 182], [206, 194, 184], [176, 154, 136]],
    ]
)


@dataclass(frozen=True)
class Weather:
    """Light and air of one log."""

    time_of_day: TimeOfDay
    sky: Sky
    rain: float
    """0 dry to 1 pouring."""
    wet: float
    """How wet the street is, 0 to 1; it stays wet after the rain."""
    haze_m: float
    """Distance over which contrast falls to 1/e."""
    sun: Array
    """[3] unit vector towards the sun (by night the moon), in the frame of the mesh."""
    sun_light: Array
    """[3] irradiance of a face turned to the sun."""
    sky_light: Array
    """[3] irradiance of a face turned up, from the sky alone."""
    ground_light: Array
    """[3] irradiance of a face turned down."""
    horizon: Array
    """[3] radiance of the sky, and of the haze, at the horizon."""
    zenith: Array
    """[3] radiance of the sky overhead."""
    clouds: float
    """Share of the sky that they cover, 0 to 1."""
    cloud_light: Array
    """[3] radiance of a cloud."""
    cloud_shift: Array
    """[2] which part of the cloud texture is overhead."""
    lamps: float
    """How much lamps, lit windows and headlights count, 0 by day to 1 by night."""

    @property
    def words(self) -> str:
        """Weather and time of day for people, such as "night, overcast, rain"."""
        parts: list[str] = [self.time_of_day, self.sky]
        if self.rain > 0:
            parts.append("rain")
        elif self.wet > 0:
            parts.append("wet street")
        if self.haze_m < 260:
            parts.append("fog")
        return ", ".join(parts)


@dataclass(frozen=True)
class Response:
    """What one log's cameras make of the light."""

    exposure: float
    white_balance: Array
    """[3] gains."""
    saturation: float
    vignette: float
    """Share of light lost in the corners."""
    noise: float
    """Standard deviation, in pixel values of 255."""
    blur_px: float
    """Standard deviation of the lens blur."""
    jpeg_quality: int


@dataclass(frozen=True)
class Appearance:
    """Everything about the look of one log that is not geometry."""

    seed: int
    """For what is drawn anew in each log: facades, windows, paints."""
    weather: Weather
    response: Response
    foliage: Array
    """[3, 3] linear albedo: three greens of this log."""
    lawn: Array
    asphalt: Array
    paving: Array
    facades: Array
    """[6, 3]"""
    paint_wear: float
    """How much of the road paint is worn off, 0 to 1."""


def linear(rgb: Array) -> Array:
    """Linear light 0 to 1 of display colours 0 to 255."""
    return (np.asarray(rgb, dtype=np.float64) / 255.0) ** 2.2


def random_appearance(rng: np.random.Generator) -> Appearance:
    """Draw the look of one log."""
    weather = random_weather(rng)

    def jittered(palette: Array, spread: float) -> Array:
        tint = rng.uniform(1 - 0.3 * spread, 1 + 0.3 * spread, 3) * rng.uniform(1 - spread, 1 + spread)
        return linear(np.clip(palette * tint, 0, 255))

    greens = _FOLIAGE[rng.choice(len(_FOLIAGE), 3, p=[0.24, 0.24, 0.22, 0.2, 0.06, 0.04])]
    night = weather.time_of_day == "night"
    response = Response(
        exposure=float(rng.uniform(0.86, 1.2)),
        white_balance=np.array([rng.uniform(0.95, 1.07), 1.0, rng.uniform(0.93, 1.06)]),
        saturation=float(rng.uniform(0.82, 1.12)),
        vignette=float(rng.uniform(0.02, 0.22)),
        noise=float(rng.uniform(4.0, 8.0) if night else rng.uniform(0.8, 3.0)),
        blur_px=float(rng.choice([0.0, 0.3, 0.45])),
        jpeg_quality=int(rng.integers(76, 93)),
    )
    return Appearance(
        seed=int(rng.integers(2**31)),
        weather=weather,
        response=response,
        foliage=jittered(greens, 0.1),
        lawn=jittered(_LAWN[rng.integers(len(_LAWN))], 0.08),
        asphalt=jittered(_ASPHALT[rng.integers(len(_ASPHALT))], 0.06),
        paving=jittered(_PAVING[rng.integers(len(_PAVING))], 0.06),
        facades=jittered(_FACADES[rng.integers(len(_FACADES))], 0.05),
        paint_wear=float(rng.uniform(0.05, 0.5)),
    )


def random_weather(rng: np.random.Generator) -> Weather:
    """Draw weather and time of day: mostly days, as nuPlan's, with enough of the rest to be ready for it."""
    time: TimeOfDay = ("day", "low sun", "dusk", "night")[rng.choice(4, p=[0.66, 0.12, 0.08, 0.14])]
    sky: Sky = ("clear", "fair", "overcast")[rng.choice(3, p=[0.34, 0.38, 0.28])]
    rainy = sky == "overcast" and rng.uniform() < 0.45
    fog = rng.uniform() < (0.18 if sky == "overcast" else 0.03)
    return weather(
        time,
        sky,
        rain=float(rng.uniform(0.3, 1.0)) if rainy else 0.0,
        fog=float(rng.uniform(0.2, 1.0)) if fog else 0.0,
        wet_street=rainy or rng.uniform() < 0.04,
        rng=rng,
    )


def weather(
    time_of_day: TimeOfDay, sky: Sky, *, rain: float, fog: float, wet_street: bool, rng: np.random.Generator
) -> Weather:
    """Light and air of a given kind of day.

    Args:
        rain: 0 dry to 1 pouring.
        fog: 0 none to 1 dense.
        rng: Decides the sun's place, brightness and clouds.
    """
    azimuth = rng.uniform(0, 2 * np.pi)
    elevation = np.radians({"day": rng.uniform(28, 68), "low sun": rng.uniform(10, 20), "dusk": 6.0,
                            "night": 55.0}[time_of_day])  # fmt: skip
    sun = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
    strength = {"clear": 1.0, "fair": rng.uniform(0.75, 1.0), "overcast": 0.0}[sky]
    if time_of_day == "day":
        sun_light = np.array([2.35, 2.2, 2.0]) * strength
        zenith, horizon = np.array([0.17, 0.33, 0.72]), np.array([0.72, 0.85, 1.0])
    elif time_of_day == "low sun":
        sun_light = np.array([2.1, 1.45, 0.85]) * strength
        zenith, horizon = np.array([0.18, 0.30, 0.58]), np.array([1.05, 0.86, 0.66])
    elif time_of_day == "dusk":
        sun_light = np.zeros(3)
        zenith, horizon = np.array([0.05, 0.085, 0.18]), np.array([0.30, 0.26, 0.27])
    else:
        sun_light = np.zeros(3)
        zenith, horizon = np.array([0.003, 0.0045, 0.010]), np.array([0.022, 0.020, 0.021])
    if sky == "overcast":
        grey = {"day": 0.78, "low sun": 0.5, "dusk": 0.16, "night": 0.016}[time_of_day] * (1 - 0.4 * rain)
        zenith, horizon = grey * np.array([0.92, 0.97, 1.04]), grey * np.array([1.06, 1.06, 1.06])
        clouds = 1.0
    else:
        clouds = float(rng.uniform(0.0, 0.12) if sky == "clear" else rng.uniform(0.3, 0.62))
    # A face turned up sees the whole sky; pi over pi, since albedo here is irradiance in, radiance out.
    sky_light = 0.62 * (0.65 * zenith + 0.35 * horizon) * (1.25 if sky == "overcast" else 1.0)
    # The camera's white balance leans towards the shade.
    sky_light = 0.65 * sky_light + 0.35 * sky_light.mean()
    sky_light += 0.1 * sun_light * clouds + 0.02 * sun_light
    ground_light = 0.22 * (sky_light + sun_light * sun[2] * 0.5)
    brightness = rng.uniform(0.85, 1.1)
    haze_m = float(rng.uniform(700.0, 3000.0))
    if rain > 0:
        haze_m = float(rng.uniform(600.0, 1200.0)) * (1.2 - 0.6 * rain)
    if fog > 0:
        haze_m = min(haze_m, 170.0 - 120.0 * fog)
        horizon = 0.5 * horizon + 0.5 * horizon.mean()
    cloud_light = {"day": 1.15, "low sun": 0.85, "dusk": 0.3, "night": 0.02}[time_of_day] * np.array([1.0, 0.99, 0.97])
    if time_of_day == "low sun":
        cloud_light = cloud_light * np.array([1.2, 0.95, 0.8])
    lamps = {"day": 0.0, "low sun": 0.0, "dusk": 0.55, "night": 1.0}[time_of_day]
    return Weather(
        time_of_day=time_of_day,
        sky=sky,
        rain=rain,
        wet=float(min(1.0, 0.45 + 0.6 * rain)) if wet_street else 0.0,
        haze_m=haze_m,
        sun=sun,
        sun_light=sun_light * brightness,
        sky_light=sky_light * brightness,
        ground_light=ground_light * brightness,
        horizon=horizon * brightness,
        zenith=zenith * brightness,
        clouds=clouds,
        cloud_light=cloud_light * brightness,
        cloud_shift=rng.uniform(0, 256, 2),
        lamps=lamps,
    )
