//! Rewards against divergence, with the most that can be earned.

use std::path::Path;

use miette::IntoDiagnostic as _;
use plotters::coord::Shift;
use plotters::prelude::*;

use super::{COLOURS, Drawing, Drawn, FONT, PictureFormat, SIZE, render, write};

/// Policies of one kind.
#[derive(Clone, Debug)]
pub struct Kind {
    /// Its name in the legend.
    pub label: String,
    /// Divergence and reward of each, with half the lengths of their intervals.
    pub points: Vec<([f64; 2], [f64; 2])>,
}

/// Draws policies by divergence (to the right) and reward (upwards), and above them the most that can be earned, if that is
/// known. The file appears under its name only when it is complete.
///
/// # Errors
/// When the picture cannot be drawn, or the file not written; the message names it.
pub fn frontier(
    path: &Path,
    format: PictureFormat,
    title: &str,
    best: &[(f64, f64)],
    kinds: &[Kind],
) -> miette::Result<()> {
    write(path, format, SIZE, &Policies { title, best, kinds })
}

/// The same as the text of an SVG file.
///
/// # Errors
/// When the picture cannot be drawn.
pub fn frontier_svg(title: &str, best: &[(f64, f64)], kinds: &[Kind]) -> miette::Result<String> {
    let bytes = render(PictureFormat::Svg, SIZE, &Policies { title, best, kinds })?;
    String::from_utf8(bytes).into_diagnostic()
}

struct Policies<'a> {
    title: &'a str,
    best: &'a [(f64, f64)],
    kinds: &'a [Kind],
}

impl Drawing for Policies<'_> {
    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Drawn<B> {
        draw_policies(area, self)
    }
}

fn draw_policies<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    &Policies { title, best, kinds }: &Policies<'_>,
) -> Drawn<B> {
    let ends = |at: usize| {
        let points = kinds.iter().flat_map(|kind| &kind.points);
        points.flat_map(move |(middle, reach)| [middle[at] - reach[at], middle[at] + reach[at]])
    };
    let most = ends(0).fold(0.0, f64::max).max(1e-3) * 1.05;
    // The curve goes on for ever; what is shown of it is where policies are.
    let shown: Vec<(f64, f64)> = best.iter().copied().filter(|(kl, _)| *kl <= most).collect();
    let heights = || ends(1).chain(shown.iter().map(|(_, reward)| *reward));
    let (low, high) = (
        heights().fold(f64::INFINITY, f64::min),
        heights().fold(f64::NEG_INFINITY, f64::max),
    );
    let margin = 0.06 * (high - low).max(1e-3);
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 22))
        .margin(12)
        .x_label_area_size(48)
        .y_label_area_size(72)
        .build_cartesian_2d(-0.02 * most..most, low - margin..high + margin)?;
    chart
        .configure_mesh()
        .x_desc("KL from the reference, nats")
        .y_desc("expected reward")
        .axis_desc_style((FONT, 18))
        .label_style((FONT, 16))
        .light_line_style(WHITE)
        .draw()?;
    if !shown.is_empty() {
        chart
            .draw_series(DashedLineSeries::new(shown, 8, 5, BLACK.stroke_width(2)))?
            .label("the most that can be earned")
            .legend(|(x, y)| PathElement::new([(x, y), (x + 10, y)], BLACK.stroke_width(2)));
    }
    for (kind, colour) in kinds.iter().zip(COLOURS.iter().cycle()) {
        let lines = kind.points.iter().flat_map(|(middle, reach)| {
            let [x, y] = *middle;
            [
                [(x - reach[0], y), (x + reach[0], y)],
                [(x, y - reach[1]), (x, y + reach[1])],
            ]
        });
        chart.draw_series(lines.map(|ends| PathElement::new(ends, colour.mix(0.6))))?;
        let dots = kind
            .points
            .iter()
            .map(|(middle, _)| Circle::new((middle[0], middle[1]), 4, colour.filled()));
        chart
            .draw_series(dots)?
            .label(kind.label.as_str())
            .legend(move |(x, y)| Circle::new((x + 8, y), 4, colour.filled()));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .label_font((FONT, 16))
        .draw()?;
    area.present()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_and_the_curve_are_drawn() {
        let directory = tempfile::tempdir().unwrap();
        let kinds = [Kind {
            label: "DPO".to_owned(),
            points: vec![([0.5, 1.0], [0.1, 0.2]), ([1.5, 1.5], [0.0, 0.0])],
        }];
        let path = directory.path().join("frontier.svg");
        frontier(
            &path,
            PictureFormat::Svg,
            "a title",
            &[(0.0, 0.0), (1.0, 2.0), (9.0, 3.0)],
            &kinds,
        )
        .unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        for word in [
            "a title",
            "DPO",
            "the most that can be earned",
            "KL from the reference",
            "</svg>",
        ] {
            assert!(text.contains(word), "{word}");
        }
        let path = directory.path().join("frontier.png");
        frontier(&path, PictureFormat::Png, "a title", &[], &kinds).unwrap();
        assert!(std::fs::metadata(&path).unwrap().len() > 1000);
    }
}
