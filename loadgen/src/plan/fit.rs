//! Weighted least squares with confidence intervals.

/// Something that was measured: what it depends on, and what came out.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Observation {
    /// One value a coefficient.
    pub(super) inputs: Vec<f64>,
    /// What was measured.
    pub(super) output: f64,
    /// The standard deviation it is thought to have, up to a common factor.
    pub(super) deviation: f64,
}

/// Coefficients that describe observations best.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fit {
    /// One a column of the inputs.
    pub(super) estimates: Vec<Estimate>,
    /// Covariances of the estimates.
    covariance: Vec<Vec<f64>>,
    /// Student's t for 95 % at the degrees of freedom.
    t: f64,
    /// Observations less estimates.
    pub(super) freedom: usize,
    /// The typical difference between what was measured and what the fit says, as a share of
    /// what was measured, the better measured counting more.
    pub(super) typical_error: f64,
}

/// A coefficient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Estimate {
    /// Its value.
    pub(super) value: f64,
    /// Half of its 95 % confidence interval.
    pub(super) half_width: f64,
}

/// Why observations do not give coefficients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FitError {
    /// Fewer observations than it takes: how many there are, how many it takes at least.
    TooFew {
        /// There are.
        got: usize,
        /// It takes.
        needed: usize,
    },
    /// The column always goes with others, so nobody can tell what is due to which.
    Entangled {
        /// Index of the column.
        column: usize,
    },
}

/// A column of which less than this share is its own, beside those before it, is entangled.
const OWN_SHARE_MIN: f64 = 1e-3;

/// The coefficients that minimise the sum of the squared errors, each error in units of its
/// observation's deviation.
///
/// The covariance is that of the residuals (s² (XᵀWX)⁻¹ with s² over the degrees of freedom), the
/// intervals Student's. Source: Draper and Smith, Applied Regression Analysis, chapters 5 and 9.
///
/// # Errors
///
/// When there are too few observations, or they do not tell columns apart.
pub(super) fn fit(observations: &[Observation], columns: usize) -> Result<Fit, FitError> {
    // With one more than coefficients there is an interval at all.
    let needed = columns + 1;
    if observations.len() < needed {
        return Err(FitError::TooFew { got: observations.len(), needed });
    }
    let scales = scales(observations, columns);
    let mut normal = vec![vec![0.0; columns]; columns];
    let mut right = vec![0.0; columns];
    for observation in observations {
        let row = scaled(observation, &scales);
        for (i, a) in row.iter().enumerate() {
            *at(&mut right, i) += a * observation.output / observation.deviation;
            for (j, b) in row.iter().enumerate() {
                *at(row_of(&mut normal, i), j) += a * b;
            }
        }
    }
    let inverse = inverse(normal)?;
    let product = |row: &Vec<f64>| row.iter().zip(&right).map(|(a, b)| a * b).sum::<f64>();
    let solution: Vec<f64> = inverse.iter().map(product).collect();

    let freedom = observations.len() - columns;
    let values: Vec<f64> =
        solution.iter().zip(&scales).map(|(value, scale)| value / scale).collect();
    let mut squares = 0.0;
    let mut size = 0.0;
    for observation in observations {
        let error = observation.output - dot(&observation.inputs, &values);
        squares += (error / observation.deviation).powi(2);
        size += (observation.output / observation.deviation).powi(2);
    }
    let variance = squares / to_f64(freedom);
    let covariance: Vec<Vec<f64>> = inverse
        .iter()
        .zip(&scales)
        .map(|(row, a)| {
            row.iter().zip(&scales).map(|(cell, b)| cell * variance / (a * b)).collect()
        })
        .collect();
    let t = student_t_95(freedom);
    let estimate = |(index, value): (usize, &f64)| {
        let own = covariance.get(index).and_then(|row: &Vec<f64>| row.get(index)).copied();
        Estimate { value: *value, half_width: t * own.unwrap_or(0.0).max(0.0).sqrt() }
    };
    Ok(Fit {
        estimates: values.iter().enumerate().map(estimate).collect(),
        covariance,
        t,
        freedom,
        typical_error: (squares / f64::max(size, f64::MIN_POSITIVE)).sqrt(),
    })
}

impl Fit {
    /// What comes out for `inputs`, with the 95 % confidence interval of its mean.
    pub(super) fn predict(&self, inputs: &[f64]) -> Estimate {
        let value = self.estimates.iter().zip(inputs).map(|(e, x)| e.value * x).sum();
        let variance: f64 = self
            .covariance
            .iter()
            .zip(inputs)
            .map(|(row, a)| row.iter().zip(inputs).map(|(cell, b)| a * cell * b).sum::<f64>())
            .sum();
        Estimate { value, half_width: self.t * variance.max(0.0).sqrt() }
    }
}

impl Estimate {
    /// The upper end of the interval, at least 0.
    pub(super) fn upper(&self) -> f64 {
        (self.value + self.half_width).max(0.0)
    }
}

/// The length of each column, so that all are about as long.
fn scales(observations: &[Observation], columns: usize) -> Vec<f64> {
    let length = |column: usize| {
        let squares = observations.iter().map(|observation| {
            let input = observation.inputs.get(column).copied().unwrap_or(0.0);
            (input / observation.deviation).powi(2)
        });
        let length = squares.sum::<f64>().sqrt();
        if length > 0.0 { length } else { 1.0 }
    };
    (0..columns).map(length).collect()
}

fn scaled(observation: &Observation, scales: &[f64]) -> Vec<f64> {
    let inputs = observation.inputs.iter().zip(scales);
    inputs.map(|(input, scale)| input / scale / observation.deviation).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn row_of(matrix: &mut [Vec<f64>], row: usize) -> &mut Vec<f64> {
    matrix.get_mut(row).expect("a square matrix as wide as its columns")
}

fn at(items: &mut [f64], index: usize) -> &mut f64 {
    items.get_mut(index).expect("a square matrix as wide as its columns")
}

#[expect(clippy::cast_precision_loss, reason = "a handful of observations")]
fn to_f64(count: usize) -> f64 {
    count as f64
}

/// The inverse of a matrix whose diagonal is 1, by Gauss and Jordan.
///
/// What is left of a diagonal element when it is its turn is the share of its column that no column
/// before it explains.
fn inverse(mut matrix: Vec<Vec<f64>>) -> Result<Vec<Vec<f64>>, FitError> {
    let size = matrix.len();
    let mut result: Vec<Vec<f64>> = (0..size)
        .map(|row| (0..size).map(|column| f64::from(u8::from(row == column))).collect())
        .collect();
    for column in 0..size {
        let pivot = *at(row_of(&mut matrix, column), column);
        // A column of nothing but 0 has a diagonal of 0, too; so does one that is NaN anywhere.
        if pivot.is_nan() || pivot < OWN_SHARE_MIN {
            return Err(FitError::Entangled { column });
        }
        for rows in [&mut matrix, &mut result] {
            row_of(rows, column).iter_mut().for_each(|cell| *cell /= pivot);
        }
        let (pivot_row, result_row) =
            (row_of(&mut matrix, column).clone(), row_of(&mut result, column).clone());
        for row in (0..size).filter(|row| *row != column) {
            let factor = *at(row_of(&mut matrix, row), column);
            subtract(row_of(&mut matrix, row), &pivot_row, factor);
            subtract(row_of(&mut result, row), &result_row, factor);
        }
    }
    Ok(result)
}

fn subtract(row: &mut [f64], other: &[f64], factor: f64) {
    row.iter_mut().zip(other).for_each(|(cell, other)| *cell -= factor * other);
}

/// Student's t for a two-sided 95 % interval.
fn student_t_95(freedom: usize) -> f64 {
    const T: [f64; 30] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
        2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
        2.052, 2.048, 2.045, 2.042,
    ];
    T.get(freedom.saturating_sub(1)).copied().unwrap_or(1.96)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observation(inputs: &[f64], output: f64) -> Observation {
        Observation { inputs: inputs.to_vec(), output, deviation: 1.0 }
    }

    #[track_caller]
    fn assert_near(got: f64, expected: f64) {
        assert!((got - expected).abs() <= 1e-6 * expected.abs().max(1.0), "{got} for {expected}");
    }

    #[test]
    fn a_line_without_noise_is_found_and_certain() {
        let observations: Vec<_> =
            [1.0, 2.0, 5.0, 9.0].iter().map(|x| observation(&[1.0, *x], 3.0 + 0.5 * x)).collect();
        let fit = fit(&observations, 2).unwrap();
        assert_near(fit.estimates[0].value, 3.0);
        assert_near(fit.estimates[1].value, 0.5);
        assert_near(fit.estimates[1].half_width, 0.0);
        assert_near(fit.predict(&[1.0, 100.0]).value, 53.0);
        assert_eq!(fit.freedom, 2);
    }

    /// By hand:
    /// y = a x with errors +1, -1, +1, -1 at x = 1, 1, 1, 1 has s² = 4/3 and a half width of
    /// 3.182 sqrt(4/3 / 4).
    #[test]
    fn an_interval_is_students() {
        let observations: Vec<_> =
            [1.0, -1.0, 1.0, -1.0].iter().map(|error| observation(&[1.0], 10.0 + error)).collect();
        let fit = fit(&observations, 1).unwrap();
        assert_near(fit.estimates[0].value, 10.0);
        assert_near(fit.estimates[0].half_width, 3.182 * (4.0_f64 / 3.0 / 4.0).sqrt());
    }

    #[test]
    fn what_is_measured_better_counts_more() {
        let mut observations = vec![observation(&[1.0], 10.0); 3];
        observations.push(Observation { deviation: 1e6, ..observation(&[1.0], 1_000.0) });
        assert!((fit(&observations, 1).unwrap().estimates[0].value - 10.0).abs() < 1e-3);
    }

    #[test]
    fn columns_that_go_together_are_not_told_apart() {
        let observations: Vec<_> =
            [1.0, 2.0, 3.0, 4.0].iter().map(|x| observation(&[*x, 2.0 * x], *x)).collect();
        assert_eq!(fit(&observations, 2), Err(FitError::Entangled { column: 1 }));
        let zeros = vec![observation(&[1.0, 0.0], 1.0); 4];
        assert_eq!(fit(&zeros, 2), Err(FitError::Entangled { column: 1 }));
    }

    #[test]
    fn without_more_observations_than_coefficients_there_is_no_interval() {
        let observations = [observation(&[1.0, 1.0], 1.0), observation(&[1.0, 2.0], 2.0)];
        assert_eq!(fit(&observations, 2), Err(FitError::TooFew { got: 2, needed: 3 }));
    }
}
