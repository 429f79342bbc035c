//! Quasi-Newton minimisation of a smooth function of a few dozen numbers, without derivatives given.

/// A point and the objective there.
pub struct Minimum {
    /// The point.
    pub point: Vec<f64>,
    /// The objective's value.
    pub value: f64,
}

/// BFGS with central differences and backtracking: the lowest point met from `point` on.
pub fn minimize(point: Vec<f64>, iterations: usize, objective: impl Fn(&[f64]) -> f64) -> Minimum {
    let size = point.len();
    let gradient_at = |point: &[f64]| -> Vec<f64> {
        let mut moved = point.to_vec();
        (0..size)
            .map(|index| {
                moved[index] = point[index] + DIFFERENCE;
                let above = objective(&moved);
                moved[index] = point[index] - DIFFERENCE;
                let below = objective(&moved);
                moved[index] = point[index];
                (above - below) / (2.0 * DIFFERENCE)
            })
            .collect()
    };
    let mut best = Minimum {
        value: objective(&point),
        point,
    };
    let mut gradient = gradient_at(&best.point);
    let mut inverse = identity(size);
    let mut fresh = true;
    for _ in 0..iterations {
        let mut direction: Vec<f64> = inverse.iter().map(|row| -dot(row, &gradient)).collect();
        // A long step leaves the region where the curvature was measured.
        let length = dot(&direction, &direction).sqrt();
        if length > LONGEST {
            direction.iter_mut().for_each(|value| *value *= LONGEST / length);
        }
        let slope = dot(&direction, &gradient);
        let step = (0..40).map(|halvings| 0.5_f64.powi(halvings)).find_map(|factor| {
            let moved: Vec<f64> = best.point.iter().zip(&direction).map(|(x, d)| x + factor * d).collect();
            let value = objective(&moved);
            (slope < 0.0 && value < best.value + 1e-4 * factor * slope).then_some(Minimum { point: moved, value })
        });
        let Some(next) = step else {
            if fresh {
                break;
            }
            (inverse, fresh) = (identity(size), true);
            continue;
        };
        let next_gradient = gradient_at(&next.point);
        let moved: Vec<f64> = next.point.iter().zip(&best.point).map(|(a, b)| a - b).collect();
        let turned: Vec<f64> = next_gradient.iter().zip(&gradient).map(|(a, b)| a - b).collect();
        let gained = best.value - next.value;
        update_inverse(&mut inverse, &moved, &turned);
        (best, gradient, fresh) = (next, next_gradient, false);
        if gained < 1e-9 {
            break;
        }
    }
    best
}

const DIFFERENCE: f64 = 1e-5;
const LONGEST: f64 = 2.0;

/// `H' = (I - s yᵀ/yᵀs) H (I - y sᵀ/yᵀs) + s sᵀ/yᵀs`, left alone where the curvature is not positive.
fn update_inverse(inverse: &mut [Vec<f64>], moved: &[f64], turned: &[f64]) {
    let curvature = dot(moved, turned);
    if !(curvature > 1e-12 && curvature.is_finite()) {
        return;
    }
    let product: Vec<f64> = inverse.iter().map(|row| dot(row, turned)).collect();
    let scale = (1.0 + dot(turned, &product) / curvature) / curvature;
    for (i, row) in inverse.iter_mut().enumerate() {
        for (j, entry) in row.iter_mut().enumerate() {
            *entry += scale * moved[i] * moved[j] - (product[i] * moved[j] + moved[i] * product[j]) / curvature;
        }
    }
}

fn identity(size: usize) -> Vec<Vec<f64>> {
    (0..size)
        .map(|i| (0..size).map(|j| f64::from(u8::from(i == j))).collect())
        .collect()
}

fn dot(left: &[f64], right: &[f64]) -> f64 {
    left.iter().zip(right).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_bottom_of_a_curved_valley() {
        // Rosenbrock's function, lowest at (1, 1), where it is 0; its logarithm would have no bottom.
        let valley = |p: &[f64]| (1.0 - p[0]).powi(2) + 100.0 * (p[1] - p[0] * p[0]).powi(2);
        let found = minimize(vec![-1.2, 1.0], 500, valley);
        assert!(
            found.value < 1e-8 && (found.point[0] - 1.0).abs() < 1e-3,
            "{:?}",
            found.point
        );
    }

    #[test]
    fn stays_where_the_function_is_finite() {
        // x - ln x is lowest at 1 and undefined below 0, where the first step would go.
        let bounded = |p: &[f64]| if p[0] > 0.0 { p[0] - p[0].ln() } else { f64::INFINITY };
        let found = minimize(vec![0.3], 100, bounded);
        assert!((found.point[0] - 1.0).abs() < 1e-3, "{:?}", found.point);
    }
}
