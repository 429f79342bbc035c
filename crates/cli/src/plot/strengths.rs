//! Strengths of items with their intervals.

use std::path::Path;

use exact::fit::ItemStrength;
use plotters::coord::Shift;
use plotters::prelude::*;

use super::{COLOURS, Drawing, Drawn, FONT, PictureFormat, write};

/// Half the width of a 95 % interval in standard errors.
const INTERVAL: f64 = 1.959964;
/// Beyond this many items there is no room for names.
const NAMED: usize = 300;
/// Names are cut to this many characters.
const NAME_LENGTH: usize = 28;

/// Draws log-strengths with 95 % intervals, in the order given, the first on top.
/// The file appears under its name only when it is complete.
///
/// # Errors
/// When the picture cannot be drawn, or the file not written; the message names it.
pub fn strengths(path: &Path, format: PictureFormat, items: &[ItemStrength]) -> miette::Result<()> {
    let size = (960, 110 + 24 * items.len().clamp(8, NAMED) as u32);
    write(path, format, size, &Strengths(items))
}

struct Strengths<'a>(&'a [ItemStrength]);

impl Drawing for Strengths<'_> {
    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Drawn<B> {
        draw_strengths(area, self.0)
    }
}

fn draw_strengths<B: DrawingBackend>(area: &DrawingArea<B, Shift>, items: &[ItemStrength]) -> Drawn<B> {
    let reach = |item: &ItemStrength| INTERVAL * item.std_error.unwrap_or(0.0);
    let low = items
        .iter()
        .map(|item| item.log_strength - reach(item))
        .fold(0.0, f64::min);
    let high = items
        .iter()
        .map(|item| item.log_strength + reach(item))
        .fold(0.0, f64::max);
    let named = items.len() <= NAMED;
    let longest = items
        .iter()
        .map(|item| item.item.chars().count().min(NAME_LENGTH))
        .max()
        .unwrap_or(0);
    let margin = 0.04 * (high - low).max(0.1);
    let last = items.len() as f64;
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(area)
        .caption("log-strength with 95 % interval", (FONT, 22))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(if named { 24 + 9 * longest as u32 } else { 24 })
        .build_cartesian_2d(low - margin..high + margin, last + 0.5..0.5)?;
    // The names are drawn below, each at its item's height.
    chart
        .configure_mesh()
        .x_desc("nats above the average item")
        .x_labels(9)
        .y_labels(0)
        .disable_y_mesh()
        .axis_desc_style((FONT, 18))
        .label_style((FONT, 16))
        .light_line_style(WHITE)
        .draw()?;
    chart.draw_series(std::iter::once(PathElement::new(
        vec![(0.0, 0.5), (0.0, last + 0.5)],
        BLACK.mix(0.4),
    )))?;
    let colour = COLOURS[0];
    for (place, item) in (1..).zip(items) {
        let height = f64::from(place);
        let ends = vec![
            (item.log_strength - reach(item), height),
            (item.log_strength + reach(item), height),
        ];
        chart.draw_series([PathElement::new(ends, colour.stroke_width(2))])?;
        chart.draw_series([Circle::new((item.log_strength, height), 4, colour.filled())])?;
        if named {
            let (_, y) = chart.backend_coord(&(item.log_strength, height));
            let style = (FONT, 16)
                .into_text_style(area)
                .pos(plotters::style::text_anchor::Pos::new(
                    plotters::style::text_anchor::HPos::Right,
                    plotters::style::text_anchor::VPos::Center,
                ));
            let (left, _) = chart.plotting_area().get_base_pixel();
            area.draw_text(&shortened(&item.item), &style, (left - 8, y))?;
        }
    }
    area.present()
}

/// A name that fits beside the axis.
fn shortened(name: &str) -> String {
    if name.chars().count() <= NAME_LENGTH {
        return name.to_owned();
    }
    name.chars().take(NAME_LENGTH - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_intervals_are_drawn() {
        let item = |item: &str, log_strength| ItemStrength {
            item: item.to_owned(),
            log_strength,
            std_error: Some(0.3),
            rank: 1,
            probability: 0.5,
        };
        let items = [
            item("first", 1.0),
            item("a name that is much too long for its place", -1.0),
        ];
        let directory = tempfile::tempdir().unwrap();
        let svg = directory.path().join("plot.svg");
        strengths(&svg, PictureFormat::Svg, &items).unwrap();
        let text = std::fs::read_to_string(&svg).unwrap();
        for word in ["first", "a name that is much too lon…", "95 %", "</svg>"] {
            assert!(text.contains(word), "{word}");
        }
        assert_eq!(text.matches("<circle").count(), 2);
        let png = directory.path().join("plot.png");
        strengths(&png, PictureFormat::Png, &items).unwrap();
        let decoder = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(&png).unwrap()));
        let mut reader = decoder.read_info().unwrap();
        assert_eq!((reader.info().width, reader.info().height), (960, 110 + 24 * 8));
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        assert!(pixels.chunks(3).filter(|pixel| *pixel == [0, 114, 178]).count() > 100);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn many_items_still_fit() {
        let item = |index: usize| ItemStrength {
            item: format!("item {index}"),
            log_strength: index as f64,
            std_error: Some(1.0),
            rank: 1,
            probability: 0.0,
        };
        let items: Vec<ItemStrength> = (0..NAMED + 1).map(item).collect();
        let directory = tempfile::tempdir().unwrap();
        let svg = directory.path().join("plot.svg");
        strengths(&svg, PictureFormat::Svg, &items).unwrap();
        assert!(!std::fs::read_to_string(&svg).unwrap().contains("item 5"));
    }
}
