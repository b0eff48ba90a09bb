//! How a time is distributed.

use std::f64::consts::TAU;

use crate::random::Random;

/// A law that times are drawn from; the unit is that of the key it belongs to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Law {
    pub(crate) shape: Shape,
    /// Longer times are cut to this.
    pub(crate) most: f64,
}

/// The shape of a [`Law`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Shape {
    /// Always this.
    Fixed(f64),
    /// Anything between the two alike.
    Uniform { from: f64, to: f64 },
    /// What has no memory.
    Exponential { mean: f64 },
    /// A product of many small causes: half are below `median`; `sigma` is the spread of the
    /// logarithm.
    LogNormal { median: f64, sigma: f64 },
    /// `shape` below 1: many short ones and a few very long ones; 1 is exponential.
    Weibull { scale: f64, shape: f64 },
}

impl Law {
    /// Never anything but 0.
    pub(crate) const ZERO: Self = Self { shape: Shape::Fixed(0.0), most: 0.0 };

    /// Whether it is 0 and nothing else, which says that something does not happen.
    pub(crate) fn is_never(&self) -> bool {
        self.most == 0.0 || self.shape == Shape::Fixed(0.0)
    }

    /// Draws a time.
    pub(crate) fn draw(&self, random: &mut Random) -> f64 {
        let drawn = match self.shape {
            Shape::Fixed(value) => value,
            Shape::Uniform { from, to } => from + (to - from) * random.unit(),
            Shape::Exponential { mean } => mean * -positive_unit(random).ln(),
            Shape::LogNormal { median, sigma } => {
                // Box and Muller, 1958.
                let radius = (-2.0 * positive_unit(random).ln()).sqrt();
                median * (sigma * radius * (TAU * random.unit()).cos()).exp()
            }
            Shape::Weibull { scale, shape } => {
                scale * (-positive_unit(random).ln()).powf(1.0 / shape)
            }
        };
        drawn.clamp(0.0, self.most)
    }

    /// The same law with all times divided by `by`.
    pub(crate) fn divided(self, by: f64) -> Self {
        let shape = match self.shape {
            Shape::Fixed(value) => Shape::Fixed(value / by),
            Shape::Uniform { from, to } => Shape::Uniform { from: from / by, to: to / by },
            Shape::Exponential { mean } => Shape::Exponential { mean: mean / by },
            Shape::LogNormal { median, sigma } => Shape::LogNormal { median: median / by, sigma },
            Shape::Weibull { scale, shape } => Shape::Weibull { scale: scale / by, shape },
        };
        Self { shape, most: self.most / by }
    }
}

/// In (0, 1]: what a logarithm can be taken of.
fn positive_unit(random: &mut Random) -> f64 {
    1.0 - random.unit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(shape: Shape, median: f64, mean: f64) {
        let law = Law { shape, most: 1e9 };
        let mut random = Random::new(1);
        let mut drawn: Vec<f64> = (0..100_001).map(|_| law.draw(&mut random)).collect();
        drawn.sort_by(f64::total_cmp);
        let sum: f64 = drawn.iter().sum();
        assert!((drawn[50_000] / median - 1.0).abs() < 0.02, "{shape:?} median {}", drawn[50_000]);
        assert!((sum / 100_001.0 / mean - 1.0).abs() < 0.02, "{shape:?} mean {}", sum / 100_001.0);
    }

    #[test]
    fn each_law_has_its_median_and_mean() {
        check(Shape::Fixed(3.0), 3.0, 3.0);
        check(Shape::Uniform { from: 2.0, to: 4.0 }, 3.0, 3.0);
        check(Shape::Exponential { mean: 10.0 }, 10.0 * 2.0_f64.ln(), 10.0);
        let sigma = 0.5_f64;
        check(Shape::LogNormal { median: 5.0, sigma }, 5.0, 5.0 * (sigma * sigma / 2.0).exp());
        // The gamma function at 1 + 1/0.5 is 2.
        check(Shape::Weibull { scale: 10.0, shape: 0.5 }, 10.0 * 2.0_f64.ln().powi(2), 20.0);
    }

    #[test]
    fn nothing_is_longer_than_the_most() {
        let law = Law { shape: Shape::Weibull { scale: 10.0, shape: 0.3 }, most: 12.0 };
        let mut random = Random::new(1);
        assert!((0..1_000).map(|_| law.draw(&mut random)).all(|t| (0.0..=12.0).contains(&t)));
    }

    #[test]
    fn a_divided_law_has_the_same_shape() {
        let law = Law { shape: Shape::LogNormal { median: 60.0, sigma: 1.0 }, most: 600.0 };
        let (mut slow, mut fast) = (Random::new(3), Random::new(3));
        for _ in 0..100 {
            let (long, short) = (law.draw(&mut slow), law.divided(60.0).draw(&mut fast));
            assert!((long / 60.0 - short).abs() < 1e-9);
        }
    }
}
