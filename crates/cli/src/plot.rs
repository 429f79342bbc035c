//! Pictures: standard deviation against noise level, and strengths of items.

mod axis;
mod frontier;
mod lines;
mod strengths;

use std::path::{Path, PathBuf};

use axis::Axis;
use miette::{IntoDiagnostic as _, WrapErr as _, miette};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::FontStyle;
use train::files::write_atomic;

pub use frontier::{Kind as FrontierKind, frontier, frontier_svg};
pub use lines::{Line, lines_svg};
pub use strengths::strengths;

/// One line of the picture.
#[derive(Clone, Debug)]
pub struct Curve {
    /// Its name in the legend.
    pub label: String,
    /// Noise level, which may be 0 or infinite, and standard deviation there; noisiest first.
    pub points: Vec<(f64, f64)>,
    /// Dashed and without marks: what the others are compared with.
    pub target: bool,
    /// Curves of the same group share a colour; those of none are black.
    pub group: Option<usize>,
}

/// The format of a picture file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PictureFormat {
    /// Pixels.
    Png,
    /// Scalable.
    Svg,
}

impl PictureFormat {
    /// The format that a file's name asks for; `None` for a name that ends in neither `.png` nor `.svg`.
    pub fn of(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?;
        [("png", Self::Png), ("svg", Self::Svg)]
            .into_iter()
            .find_map(|(name, format)| extension.eq_ignore_ascii_case(name).then_some(format))
    }
}

/// The value of a `--plot` flag: a file whose name says its format.
pub fn picture_path(text: &str) -> Result<(PathBuf, PictureFormat), String> {
    let path = PathBuf::from(text);
    let format = PictureFormat::of(&path).ok_or("the name of a plot ends in .png or .svg")?;
    Ok((path, format))
}

const SIZE: (u32, u32) = (960, 640);
const FONT: &str = "sans-serif";

/// Colours that stay apart in print; the first six also for people who see few colours (Okabe & Ito 2008).
const COLOURS: [RGBColor; 10] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(120, 94, 240),
    RGBColor(130, 80, 40),
    RGBColor(120, 120, 120),
    RGBColor(170, 20, 60),
];

/// Draws curves of standard deviation against noise level, as sampling meets them: the noisiest level on the left.
/// The file appears under its name only when it is complete.
///
/// # Errors
/// When the picture cannot be drawn, or the file not written; the message names it.
pub fn std_against_level(
    path: &Path,
    format: PictureFormat,
    title: &str,
    y_label: &str,
    curves: &[Curve],
) -> miette::Result<()> {
    let levels = Levels { title, y_label, curves };
    write(path, format, SIZE, &levels)
}

/// Something that can be drawn.
trait Drawing {
    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Drawn<B>;
}

/// Whether something was drawn.
type Drawn<B> = Result<(), DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>>;

/// The bytes of a picture.
fn render(format: PictureFormat, size: (u32, u32), drawing: &impl Drawing) -> miette::Result<Vec<u8>> {
    register_font()?;
    let failed = |error: &dyn std::fmt::Display| miette!("the plot cannot be drawn: {error}");
    match format {
        PictureFormat::Svg => {
            let mut text = String::new();
            drawing
                .draw(&SVGBackend::with_string(&mut text, size).into_drawing_area())
                .map_err(|error| failed(&error))?;
            Ok(text.into_bytes())
        }
        PictureFormat::Png => {
            let mut pixels = vec![0; (size.0 * size.1 * 3) as usize];
            drawing
                .draw(&BitMapBackend::with_buffer(&mut pixels, size).into_drawing_area())
                .map_err(|error| failed(&error))?;
            encode_png(&pixels, size)
        }
    }
}

fn write(path: &Path, format: PictureFormat, size: (u32, u32), drawing: &impl Drawing) -> miette::Result<()> {
    write_atomic(path, &render(format, size, drawing)?)
        .into_diagnostic()
        .wrap_err("the plot was not written")
}

/// Makes the built-in font known to the drawing library, which finds none of the system's.
fn register_font() -> miette::Result<()> {
    plotters::style::register_font(FONT, FontStyle::Normal, include_bytes!("../assets/NotoSans-subset.ttf"))
        .map_err(|_| miette!("the built-in font is damaged"))
}

fn encode_png(pixels: &[u8], (width, height): (u32, u32)) -> miette::Result<Vec<u8>> {
    let mut content = Vec::new();
    let mut encoder = png::Encoder::new(&mut content, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().into_diagnostic()?;
    writer.write_image_data(pixels).into_diagnostic()?;
    writer.finish().into_diagnostic()?;
    Ok(content)
}

/// What [`std_against_level`] draws.
struct Levels<'a> {
    title: &'a str,
    y_label: &'a str,
    curves: &'a [Curve],
}

impl Drawing for Levels<'_> {
    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Drawn<B> {
        draw_levels(area, self)
    }
}

fn draw_levels<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    &Levels { title, y_label, curves }: &Levels<'_>,
) -> Drawn<B> {
    let all = || curves.iter().flat_map(|curve| curve.points.iter().copied());
    let levels = Axis::of_levels(all().map(|(sigma, _)| sigma));
    let stds = Axis::of_stds(all().map(|(_, std)| std));
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 22))
        .margin(12)
        .x_label_area_size(48)
        .y_label_area_size(72)
        .build_cartesian_2d(levels.clone(), stds.clone())?;
    chart
        .configure_mesh()
        .x_desc("noise level sigma (sampling runs from left to right)")
        .y_desc(y_label)
        .axis_desc_style((FONT, 18))
        .label_style((FONT, 16))
        .light_line_style(WHITE)
        .draw()?;
    for curve in curves {
        let colour = curve.group.map_or(BLACK, |group| COLOURS[group % COLOURS.len()]);
        let points: Vec<(f64, f64)> = curve
            .points
            .iter()
            .map(|&(sigma, std)| (levels.place(sigma), stds.place(std)))
            .collect();
        let style = colour.stroke_width(2);
        let target = curve.target;
        let drawn = if target {
            chart.draw_series(DashedLineSeries::new(points.iter().copied(), 8, 6, style))?
        } else {
            chart.draw_series(LineSeries::new(points.iter().copied(), style))?
        };
        drawn.label(curve.label.as_str()).legend(move |(x, y)| {
            let ends = if target {
                vec![(x, y), (x + 10, y)]
            } else {
                vec![(x, y), (x + 24, y)]
            };
            PathElement::new(ends, style)
        });
        // Marks show the steps while there is room for them.
        if !target && points.len() <= 60 {
            chart.draw_series(points.iter().map(|&point| Circle::new(point, 3, colour.filled())))?;
        }
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerLeft)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .label_font((FONT, 16))
        .draw()?;
    area.present()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curves() -> Vec<Curve> {
        let points = vec![(f64::INFINITY, 1.0), (3.0, 0.9), (0.1, 0.5), (0.0, 0.4)];
        let curve = |label: &str, target| Curve {
            label: label.to_owned(),
            points: points.clone(),
            target,
            group: Some(0),
        };
        vec![curve("data", true), curve("sampler", false)]
    }

    #[test]
    fn both_formats_are_whole_files() {
        let directory = tempfile::tempdir().unwrap();
        let svg = directory.path().join("plot.svg");
        std_against_level(&svg, PictureFormat::Svg, "title", "std", &curves()).unwrap();
        let text = std::fs::read_to_string(&svg).unwrap();
        for word in ["title", "data", "sampler", "noise level", "inf", "</svg>"] {
            assert!(text.contains(word), "{word}");
        }
        let png = directory.path().join("plot.png");
        std_against_level(&png, PictureFormat::Png, "title", "std", &curves()).unwrap();
        let decoder = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(&png).unwrap()));
        let mut reader = decoder.read_info().unwrap();
        assert_eq!((reader.info().width, reader.info().height), SIZE);
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        // White paper, and the first curve's colour on it.
        assert!(pixels.chunks(3).any(|pixel| pixel == [0, 114, 178]));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn the_name_says_the_format() {
        assert_eq!(PictureFormat::of(Path::new("a/b.PNG")), Some(PictureFormat::Png));
        assert_eq!(PictureFormat::of(Path::new("b.svg")), Some(PictureFormat::Svg));
        assert_eq!(PictureFormat::of(Path::new("b.pdf")), None);
        assert_eq!(PictureFormat::of(Path::new("png")), None);
    }
}
