//! The table as a picture, with lines that fall as 1/sqrt(n) beside it.

use std::error::Error;

use plotters::coord::combinators::IntoLogRange as _;
use plotters::prelude::*;
use plotters::style::FontStyle;

const SIZE: (u32, u32) = (960, 420);
const FONT: &str = "sans-serif";
const BLUE: RGBColor = RGBColor(0, 114, 178);
const ORANGE: RGBColor = RGBColor(213, 94, 0);

/// Distances by the number of labels: policies from pairs and fours, reward models from pairs and fours; as SVG.
///
/// # Errors
///
/// What cannot be drawn.
pub fn draw(rows: &[(usize, [f64; 4])]) -> Result<String, Box<dyn Error>> {
    plotters::style::register_font(
        FONT,
        FontStyle::Normal,
        include_bytes!("../../../cli/assets/NotoSans-subset.ttf"),
    )
    .map_err(|_| "the font is damaged")?;
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let halves = area.split_evenly((1, 2));
        for (half, title, first) in [
            (&halves[0], "policy: total variation from the optimum", 0),
            (&halves[1], "reward model: root mean square error", 2),
        ] {
            let values = || rows.iter().flat_map(|(_, values)| &values[first..first + 2]).copied();
            let least = values().fold(f64::INFINITY, f64::min);
            let most = values().fold(0.0, f64::max);
            let (low, high) = (0.7 * least, 1.4 * most);
            let mut chart = ChartBuilder::on(half)
                .caption(title, (FONT, 18))
                .margin(10)
                .x_label_area_size(40)
                .y_label_area_size(56)
                .build_cartesian_2d((100.0..5000.0).log_scale(), (low..high).log_scale())?;
            chart
                .configure_mesh()
                .light_line_style(WHITE)
                .x_desc("labels")
                .label_style((FONT, 14))
                .axis_desc_style((FONT, 14))
                .draw()?;
            for (series, name, colour) in [(first, "pairs", BLUE), (first + 1, "rankings of 4", ORANGE)] {
                let points: Vec<(f64, f64)> = rows
                    .iter()
                    .map(|(count, values)| (*count as f64, values[series]))
                    .collect();
                chart
                    .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?
                    .label(name)
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2)));
                chart.draw_series(points.iter().map(|&point| Circle::new(point, 3, colour.filled())))?;
            }
            // Through the middle of the rankings' points.
            let (count, values) = rows[rows.len() / 2];
            let rule = |n: f64| (n, values[first + 1] * (count as f64 / n).sqrt());
            let ends = [125.0, 4000.0].map(rule);
            chart
                .draw_series(DashedLineSeries::new(ends, 6, 5, BLACK.mix(0.6).stroke_width(1)))?
                .label("1/√n")
                .legend(|(x, y)| PathElement::new([(x, y), (x + 10, y)], BLACK.mix(0.6)));
            chart
                .configure_series_labels()
                .background_style(WHITE.mix(0.85))
                .border_style(BLACK.mix(0.3))
                .label_font((FONT, 14))
                .draw()?;
        }
        area.present()?;
    }
    Ok(text)
}
