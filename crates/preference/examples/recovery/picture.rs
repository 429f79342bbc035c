//! The table as a picture, both axes logarithmic, with lines of slope -1/2 beside it.

use std::error::Error;

use plotters::coord::Shift;
use plotters::coord::combinators::{BindKeyPoints as _, IntoLogRange as _};
use plotters::prelude::*;
use plotters::style::FontStyle;

const SIZE: (u32, u32) = (960, 440);
const FONT: &str = "sans-serif";
const BLUE: RGBColor = RGBColor(0, 114, 178);
const ORANGE: RGBColor = RGBColor(213, 94, 0);

/// Distances by the number of labels: policies from pairs and fours, reward models from pairs and fours.
pub type Rows<'a> = &'a [(usize, [f64; 4])];

/// The picture as SVG.
///
/// # Errors
///
/// What cannot be drawn.
pub fn draw(rows: Rows<'_>) -> Result<String, Box<dyn Error>> {
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
        for (half, (title, distance, first)) in area.split_evenly((1, 2)).iter().zip([
            ("Policies", "total variation distance from the best", 0),
            ("Reward models", "root mean square error", 2),
        ]) {
            panel(half, [title, distance], rows, first)?;
        }
        area.present()?;
    }
    Ok(text)
}

/// Two of the columns, pairs and fours, from `first` on.
fn panel<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    [title, distance]: [&str; 2],
    rows: Rows<'_>,
    first: usize,
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    let values = || rows.iter().flat_map(|(_, values)| &values[first..first + 2]).copied();
    let counts: Vec<f64> = rows.iter().map(|(count, _)| *count as f64).collect();
    let (fewest, most) = bounds(counts.iter().copied());
    let (low, high) = bounds(values());
    let (low, high) = (0.7 * low, 1.4 * high);
    let ticks = (-3..=1).flat_map(|power| [1.0, 2.0, 5.0].map(|factor| factor * 10.0_f64.powi(power)));
    let ticks: Vec<f64> = ticks.filter(|tick| (low..high).contains(tick)).collect();
    let across = (0.85 * fewest..most / 0.85).log_scale().with_key_points(counts);
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 22))
        .margin(12)
        .x_label_area_size(48)
        .y_label_area_size(64)
        .build_cartesian_2d(across, (low..high).log_scale().with_key_points(ticks))?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("labels")
        .y_desc(distance)
        .x_label_formatter(&|count| format!("{count:.0}"))
        .y_label_formatter(&|value| format!("{}", (value * 1000.0).round() / 1000.0))
        .axis_desc_style((FONT, 18))
        .label_style((FONT, 16))
        .draw()?;
    for (series, name, colour) in [(first, "pairs", BLUE), (first + 1, "rankings of 4", ORANGE)] {
        let points = rows.iter().map(|(count, values)| (*count as f64, values[series]));
        chart
            .draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], colour.stroke_width(2)));
        chart.draw_series(points.map(|point| Circle::new(point, 3, colour.filled())))?;
    }
    // Through the middle of the rankings' points.
    let (count, values) = rows[rows.len() / 2];
    let slope = |n: f64| (n, values[first + 1] * (count as f64 / n).sqrt());
    chart
        .draw_series(DashedLineSeries::new(
            [fewest, most].map(slope),
            8,
            6,
            BLACK.stroke_width(1),
        ))?
        .label("slope -1/2")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 10, y)], BLACK));
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .label_font((FONT, 16))
        .draw()
}

/// The least and the greatest of them.
fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, 0.0), |(low, high), value| {
        (low.min(value), high.max(value))
    })
}
