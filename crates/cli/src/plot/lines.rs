//! Metrics over the steps of a run.

use miette::IntoDiagnostic as _;
use plotters::coord::Shift;
use plotters::prelude::*;

use super::{COLOURS, Drawing, Drawn, FONT, PictureFormat, render};

/// A name with its points.
pub type Line = (String, Vec<(f64, f64)>);

/// Small, so that many stand side by side.
const SMALL: (u32, u32) = (440, 260);

/// Lines with their names, as the text of an SVG file.
///
/// # Errors
/// When the picture cannot be drawn.
pub fn lines_svg(title: &str, lines: &[Line]) -> miette::Result<String> {
    let bytes = render(PictureFormat::Svg, SMALL, &Lines { title, lines })?;
    String::from_utf8(bytes).into_diagnostic()
}

struct Lines<'a> {
    title: &'a str,
    lines: &'a [Line],
}

/// The least and the largest, a little apart if they are one.
fn range(values: impl Iterator<Item = f64>) -> std::ops::Range<f64> {
    let (low, high) = values
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        });
    if low > high {
        return 0.0..1.0;
    }
    let margin = if high > low {
        0.05 * (high - low)
    } else {
        0.05 * high.abs().max(1e-9)
    };
    low - margin..high + margin
}

impl Drawing for Lines<'_> {
    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Drawn<B> {
        let points = || self.lines.iter().flat_map(|(_, points)| points.iter().copied());
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(area)
            .caption(self.title, (FONT, 16))
            .margin(8)
            .x_label_area_size(24)
            .y_label_area_size(64)
            .build_cartesian_2d(range(points().map(|(x, _)| x)), range(points().map(|(_, y)| y)))?;
        chart
            .configure_mesh()
            .label_style((FONT, 12))
            .light_line_style(WHITE)
            .x_labels(6)
            .y_labels(6)
            .draw()?;
        for ((name, points), colour) in self.lines.iter().zip(COLOURS.iter().cycle()) {
            let finite = || points.iter().copied().filter(|(_, y)| y.is_finite());
            let drawn = chart.draw_series(LineSeries::new(finite(), colour.stroke_width(2)))?;
            if self.lines.len() > 1 {
                drawn
                    .label(name.as_str())
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
            }
            if points.len() <= 30 {
                chart.draw_series(finite().map(|point| Circle::new(point, 2, colour.filled())))?;
            }
        }
        if self.lines.len() > 1 {
            chart
                .configure_series_labels()
                .background_style(WHITE.mix(0.85))
                .border_style(BLACK.mix(0.3))
                .label_font((FONT, 12))
                .draw()?;
        }
        area.present()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_point_and_no_number_are_drawn_too() {
        let svg = lines_svg("loss", &[("loss".to_owned(), vec![(1.0, 0.5), (2.0, f64::NAN)])]).unwrap();
        assert!(svg.contains("loss") && svg.contains("</svg>"));
        let two = [
            ("loss".to_owned(), vec![(1.0, 0.5)]),
            ("eval_loss".to_owned(), Vec::new()),
        ];
        assert!(lines_svg("loss", &two).unwrap().contains("eval_loss"));
    }
}
