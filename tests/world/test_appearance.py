"""Weather and palettes: every kind occurs, light is light, and a seed decides all."""

from collections import Counter

import numpy as np

from irlvla.world.appearance import random_appearance, random_weather


def test_every_kind_of_weather_occurs_and_most_days_are_days() -> None:
    weathers = [random_weather(np.random.default_rng(seed)) for seed in range(600)]
    times = Counter(weather.time_of_day for weather in weathers)
    assert set(times) == {"day", "low sun", "dusk", "night"}
    assert times["day"] > 300
    assert {weather.sky for weather in weathers} == {"clear", "fair", "overcast"}
    assert 20 < sum(weather.rain > 0 for weather in weathers) < 120
    assert 10 < sum(weather.haze_m < 260 for weather in weathers) < 90


def test_light_is_positive_and_the_sun_is_up_where_it_shines() -> None:
    for seed in range(200):
        weather = random_weather(np.random.default_rng(seed))
        assert np.linalg.norm(weather.sun) == np.float64(1.0) or abs(np.linalg.norm(weather.sun) - 1) < 1e-12
        assert weather.sun[2] > 0.1
        for light in (weather.sky_light, weather.ground_light, weather.horizon, weather.zenith):
            assert (light > 0).all()
        assert (weather.sun_light > 0).all() or weather.sky == "overcast" or weather.lamps > 0
        assert weather.rain == 0 or (weather.sky == "overcast" and weather.wet > 0)
        assert weather.words.startswith(weather.time_of_day)


def test_a_seed_decides_the_whole_look() -> None:
    one, again, other = (random_appearance(np.random.default_rng(seed)) for seed in (4, 4, 5))
    np.testing.assert_array_equal(one.facades, again.facades)
    assert one.response.jpeg_quality == again.response.jpeg_quality
    assert one.weather.haze_m == again.weather.haze_m
    assert one.seed == again.seed != other.seed
    for palette in (one.foliage, one.lawn, one.asphalt, one.paving, one.facades):
        assert ((palette > 0) & (palette < 1)).all()
