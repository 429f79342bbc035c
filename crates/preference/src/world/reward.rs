//! How pleasant a remark is.

/// The valence of a word, of a kettle, a radio and a tent.
fn valence(word: &str) -> [f64; 3] {
    match word {
        "good" => [2.0; 3],
        "bad" => [-2.0; 3],
        "cheap" => [0.75; 3],
        "broken" => [-3.0; 3],
        "loud" => [-1.0, 1.5, -0.5],
        "light" => [0.5, 0.5, 1.5],
        "warm" => [1.0, -1.5, 2.0],
        _ => [0.0; 3],
    }
}

/// What `very` multiplies the next word with,
const VERY: f64 = 1.5;
/// what `not` does,
const NOT: f64 = -0.75;
/// and what everything after `but` counts.
const BUT: f64 = 1.5;

/// The reward of words said of a prompt; each adjective counts where it is said first.
#[must_use]
pub fn reward(prompt: &str, words: &[&str]) -> f64 {
    let thing = match prompt.split(' ').next() {
        Some("kettle") => 0,
        Some("radio") => 1,
        _ => 2,
    };
    let (mut sum, mut factor, mut weight) = (0.0, 1.0, 1.0);
    for (at, word) in words.iter().enumerate() {
        match *word {
            "very" => factor *= VERY,
            "not" => factor *= NOT,
            "but" => weight = BUT,
            _ => {
                if !words[..at].contains(word) {
                    sum += weight * factor * valence(word)[thing];
                }
                factor = 1.0;
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_change_each_other() {
        let of = |prompt: &str, remark: &str| reward(prompt, &remark.split(' ').collect::<Vec<_>>());
        assert_eq!(of("tent is", "warm"), 2.0);
        assert_eq!(of("radio is", "warm"), -1.5);
        assert_eq!(of("radio is", "not warm"), 1.125);
        assert_eq!(of("tent is", "very warm"), 3.0);
        assert_eq!(of("kettle is", "loud but good"), -1.0 + 3.0);
        assert_eq!(of("kettle is", "good and good"), 2.0);
        assert_eq!(of("kettle is", "good light warm"), 3.5);
        assert_eq!(of("kettle is", "is"), 0.0);
    }
}
