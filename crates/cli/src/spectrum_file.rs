//! A spectrum from a file: variances in `.npy`, comma-separated or plain text.

use std::path::{Path, PathBuf};

use diffusion::data::npy;
use exact::spectrum::{Spectrum, SpectrumError};

/// Why a file holds no spectrum.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum SpectrumFileError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Not a `.npy` file, or a broken one; the message names the file.
    #[error(transparent)]
    Npy(#[from] diffusion::data::DataError),
    /// An array of several axes.
    #[error("{}: the array has shape {shape:?}, but a spectrum is one list of variances", path.display())]
    #[diagnostic(help("save the eigenvalues of the covariance matrix, array.ravel() if they are all there"))]
    NotAList {
        /// The file.
        path: PathBuf,
        /// The array's shape.
        shape: Vec<usize>,
    },
    /// Text that is not a number.
    #[error("{}:{line}: {word:?} is not a number", path.display())]
    #[diagnostic(help("variances are separated by commas, blanks or new lines; # starts a comment"))]
    NotANumber {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What stands there.
        word: String,
    },
    /// A number that is not a variance.
    #[error("{}:{line}: {value} is not a variance", path.display())]
    #[diagnostic(help("variances are finite and not negative"))]
    NotAVariance {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What stands there.
        value: f64,
    },
    /// The numbers as a whole are no spectrum.
    #[error("{}: {source}", path.display())]
    NotASpectrum {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: SpectrumError,
    },
}

/// Reads the variances of a file. A file that ends in `.npy` is NumPy's; every other one is text.
///
/// # Errors
/// [`SpectrumFileError`] names the file, the line where there are lines, and what is wrong.
pub fn read(path: &Path) -> Result<Spectrum, SpectrumFileError> {
    let variances = if path
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("npy"))
    {
        let array = npy::read(path)?;
        if array.shape.len() != 1 {
            return Err(SpectrumFileError::NotAList {
                path: path.to_owned(),
                shape: array.shape,
            });
        }
        array.into_f64()
    } else {
        let text = std::fs::read_to_string(path).map_err(|source| SpectrumFileError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        parse(path, &text)?
    };
    Spectrum::new(variances).map_err(|source| SpectrumFileError::NotASpectrum {
        path: path.to_owned(),
        source,
    })
}

fn parse(path: &Path, text: &str) -> Result<Vec<f64>, SpectrumFileError> {
    let mut variances = Vec::new();
    for (index, content) in text.lines().enumerate() {
        let content = content.split('#').next().unwrap_or_default();
        for word in content
            .split(|c: char| c == ',' || c.is_whitespace())
            .filter(|word| !word.is_empty())
        {
            let (path, line) = (path.to_owned(), index + 1);
            match word.parse::<f64>() {
                Ok(value) if value.is_finite() && value >= 0.0 => variances.push(value),
                Ok(value) => return Err(SpectrumFileError::NotAVariance { path, line, value }),
                Err(_) => {
                    return Err(SpectrumFileError::NotANumber {
                        path,
                        line,
                        word: word.to_owned(),
                    });
                }
            }
        }
    }
    Ok(variances)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_numbers_with_commas_blanks_and_comments() {
        let text = "# variances\n1.5, 2e-3\n\n0.25\t7 # the last two\n";
        assert_eq!(parse(Path::new("x"), text).unwrap(), [1.5, 2e-3, 0.25, 7.0]);
    }

    #[test]
    fn a_wrong_line_is_named() {
        for (text, message) in [
            ("1\n2\nthree\n", "s.csv:3: \"three\" is not a number"),
            ("variance\n1\n", "s.csv:1: \"variance\" is not a number"),
            ("1\n-2\n", "s.csv:2: -2 is not a variance"),
            ("nan", "s.csv:1: NaN is not a variance"),
            ("1e999", "s.csv:1: inf is not a variance"),
        ] {
            assert_eq!(parse(Path::new("s.csv"), text).unwrap_err().to_string(), message);
        }
    }
}
