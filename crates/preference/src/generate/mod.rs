//! Drawing texts from a decoder.
//!
//! Every text keeps its own rows of one cache of keys and values, in pages; the K samples of a prompt share the prompt's.
//! All texts of a batch go through the network together, whatever their lengths, so each weight is read once per step;
//! a text that ends makes room for the next. Which texts happen to be drawn together changes nothing: the random
//! number for a token is addressed by (seed, prompt, sample, position).

mod choose;
mod pages;

use nn::decoder::{Cache, PackedDecoder};
use ops::{KeySpan, Layout, QuerySpan};
use rand::RngExt as _;
use rayon::prelude::*;
use train::random::{Purpose, stream};

pub use choose::{Choice, ChoiceError, Drawn};
use pages::{Pages, Rows};

/// The draw of a token.
const TOKEN: Purpose = Purpose::named("token");

/// What to generate.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// How tokens are drawn.
    pub choice: Choice,
    /// Texts per prompt.
    pub samples: usize,
    /// Most tokens of a text.
    pub max_new_tokens: usize,
    /// Fewest tokens before the text may end.
    pub min_new_tokens: usize,
    /// Tokens that end a text.
    pub end: Vec<u32>,
    /// Most texts that are drawn together.
    pub batch_size: usize,
    /// Seed of all randomness.
    pub seed: u64,
    /// The number of the first prompt: with the same seed, prompts 10..20 get the same texts apart or as part of 0..100.
    pub first: u64,
}

/// One text.
#[derive(Clone, Debug, PartialEq)]
pub struct Text {
    /// The number of its prompt among those given.
    pub prompt: usize,
    /// Which of the prompt's texts it is.
    pub sample: usize,
    /// Its tokens, the one that ended it included.
    pub tokens: Vec<u32>,
    /// The log-probability of each under the model itself.
    pub log_probs: Vec<f64>,
    /// Why it ended.
    pub ending: Ending,
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The model ended it.
    EndToken,
    /// It was long enough.
    Length,
    /// The caller stopped it.
    Stopped,
}

/// What the caller says to each new token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Continue,
    /// This text ends here, the token included.
    End,
    /// Nothing more is needed: all texts end here, and those that were not begun stay empty.
    EndAll,
}

/// A prompt that cannot be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GenerateError {
    /// No head for tokens.
    #[error("the model is a reward model, which scores texts and writes none; give a language model")]
    RewardModel,
    /// Nothing to go on from.
    #[error("prompt {0} has no tokens; a text needs at least one to start from, such as the model's first token")]
    EmptyPrompt(usize),
    /// A token that the model does not have.
    #[error(
        "prompt {prompt} has the token {token}, but the model has {vocabulary}; tokenizer and model do not belong together"
    )]
    Token {
        /// The prompt.
        prompt: usize,
        /// The token.
        token: u32,
        /// The model's number of tokens.
        vocabulary: usize,
    },
    /// Longer than the model's learned positions.
    #[error(
        "prompt {prompt} has {length} tokens and up to {new} more are asked for, but the model has {positions} positions; \
         shorten the prompt or ask for fewer new tokens"
    )]
    TooLong {
        /// The prompt.
        prompt: usize,
        /// Its tokens.
        length: usize,
        /// New tokens.
        new: usize,
        /// Positions.
        positions: usize,
    },
}

/// A text that is being drawn.
struct Live {
    text: Text,
    rows: Rows,
}

/// A prompt in the cache.
struct Shared {
    rows: Rows,
    /// The logits of the token after it.
    logits: Vec<f32>,
    /// Texts that are still to end.
    readers: usize,
}

/// Draws `request.samples` texts for each prompt, in the prompts' order. `watch` sees each token as it is drawn.
///
/// # Errors
///
/// [`GenerateError`] for a prompt that cannot be answered; nothing is drawn then.
pub fn generate(
    decoder: &PackedDecoder,
    prompts: &[Vec<u32>],
    request: &Request,
    watch: &mut dyn FnMut(&Text, u32) -> Verdict,
) -> Result<Vec<Text>, GenerateError> {
    check(decoder, prompts, request)?;
    if request.max_new_tokens == 0 {
        let nothing = |(prompt, sample)| Text {
            ending: Ending::Length,
            ..Text::new(prompt, sample)
        };
        let texts = (0..prompts.len()).flat_map(|prompt| (0..request.samples).map(move |sample| (prompt, sample)));
        return Ok(texts.map(nothing).collect());
    }
    let mut drawing = Drawing::new(decoder, prompts, request);
    let samples = request.samples;
    let mut waiting = (0..prompts.len()).flat_map(|prompt| (0..samples).map(move |sample| (prompt, sample)));
    let mut finished = Vec::new();
    loop {
        let logits = drawing.step();
        let room = request.batch_size.max(1) - drawing.live.len();
        drawing.begin(waiting.by_ref().take(room).collect());
        if drawing.live.is_empty() {
            break;
        }
        if drawing.draw(&logits, watch, &mut finished) {
            finished.extend(drawing.live.drain(..).map(|live| live.text));
            finished.extend(waiting.map(|(prompt, sample)| Text::new(prompt, sample)));
            break;
        }
    }
    finished.sort_by_key(|text| (text.prompt, text.sample));
    Ok(finished)
}

fn check(decoder: &PackedDecoder, prompts: &[Vec<u32>], request: &Request) -> Result<(), GenerateError> {
    if decoder.config().scores {
        return Err(GenerateError::RewardModel);
    }
    let (vocabulary, positions) = (decoder.config().vocabulary_size, decoder.config().learned_positions());
    for (number, prompt) in prompts.iter().enumerate() {
        if prompt.is_empty() {
            return Err(GenerateError::EmptyPrompt(number));
        }
        if let Some(&token) = prompt.iter().find(|token| **token as usize >= vocabulary) {
            return Err(GenerateError::Token {
                prompt: number,
                token,
                vocabulary,
            });
        }
        let (length, new) = (prompt.len(), request.max_new_tokens);
        if let Some(positions) = positions.filter(|positions| length + new > *positions) {
            return Err(GenerateError::TooLong {
                prompt: number,
                length,
                new,
                positions,
            });
        }
    }
    Ok(())
}

impl Text {
    fn new(prompt: usize, sample: usize) -> Self {
        Self {
            prompt,
            sample,
            tokens: Vec::new(),
            log_probs: Vec::new(),
            ending: Ending::Stopped,
        }
    }
}

struct Drawing<'a> {
    decoder: &'a PackedDecoder,
    prompts: &'a [Vec<u32>],
    request: &'a Request,
    cache: Cache,
    pages: Pages,
    shared: Vec<Option<Shared>>,
    live: Vec<Live>,
}

impl<'a> Drawing<'a> {
    fn new(decoder: &'a PackedDecoder, prompts: &'a [Vec<u32>], request: &'a Request) -> Self {
        Self {
            decoder,
            prompts,
            request,
            cache: Cache::new(decoder.config(), 0, &decoder.device()),
            pages: Pages::default(),
            shared: prompts.iter().map(|_| None).collect(),
            live: Vec::new(),
        }
    }

    /// Reads each live text's newest token; the logits of the next, text after text.
    fn step(&mut self) -> Vec<f32> {
        let mut reading = Reading::default();
        for Live { text, rows } in &mut self.live {
            let Some(&token) = text.tokens.last() else { continue };
            let prompt = self.shared[text.prompt].iter().flat_map(|shared| shared.rows.spans());
            reading.read(&[token], rows, prompt.collect(), &mut self.pages);
        }
        self.run(reading)
    }

    /// Takes new texts in, and reads those of their prompts that are not in the cache yet.
    fn begin(&mut self, texts: Vec<(usize, usize)>) {
        let mut reading = Reading::default();
        let mut read = Vec::new();
        for (prompt, sample) in texts {
            if self.shared[prompt].is_none() {
                let mut rows = Rows::new(0);
                reading.read(&self.prompts[prompt], &mut rows, Vec::new(), &mut self.pages);
                read.push(prompt);
                self.shared[prompt] = Some(Shared {
                    rows,
                    logits: Vec::new(),
                    readers: self.request.samples,
                });
            }
            self.live.push(Live {
                text: Text::new(prompt, sample),
                rows: Rows::new(self.prompts[prompt].len()),
            });
        }
        let logits = self.run(reading);
        let rows = logits.chunks_exact(self.decoder.config().vocabulary_size);
        for (prompt, logits) in read.into_iter().zip(rows) {
            if let Some(shared) = &mut self.shared[prompt] {
                shared.logits = logits.to_vec();
            }
        }
    }

    /// Runs the network over new tokens; the logits after the last token of each span, on the host.
    fn run(&mut self, reading: Reading) -> Vec<f32> {
        if reading.tokens.is_empty() {
            return Vec::new();
        }
        if self.pages.capacity() > self.cache.capacity() {
            // Doubling, so that a growing cache is copied a few times and not at every page.
            self.cache.grow(self.pages.capacity().max(2 * self.cache.capacity()));
        }
        let last: Vec<usize> = reading.spans.iter().map(|span| span.rows.end - 1).collect();
        let layout = Layout::new(reading.spans, self.cache.capacity());
        let (tokens, positions, rows) = (&reading.tokens, &reading.positions, &reading.rows);
        let hidden = self.decoder.extend(tokens, positions, rows, layout, &mut self.cache);
        let logits = self.decoder.logits(nn::decoder::select_rows(hidden, &last));
        logits.into_data().convert::<f32>().try_into_vec().unwrap_or_default()
    }

    /// Draws each live text's next token; `logits` are those of the texts that took a step, which come first. Ended texts
    /// go to `finished`. True when the caller wants no more of any text.
    fn draw(&mut self, logits: &[f32], watch: &mut dyn FnMut(&Text, u32) -> Verdict, finished: &mut Vec<Text>) -> bool {
        let stepped: Vec<&[f32]> = logits.chunks_exact(self.decoder.config().vocabulary_size).collect();
        let draw = |(number, live): (usize, &Live)| {
            let own = stepped.get(number).copied();
            let logits = own.unwrap_or_else(|| self.shared[live.text.prompt].as_ref().map_or(&[], |it| &it.logits));
            self.draw_one(&live.text, logits)
        };
        let drawn: Vec<Drawn> = self.live.par_iter().enumerate().map(draw).collect();
        let mut all_end = false;
        let mut going_on = Vec::new();
        for (mut live, drawn) in std::mem::take(&mut self.live).into_iter().zip(drawn) {
            live.text.tokens.push(drawn.token);
            live.text.log_probs.push(drawn.log_prob);
            let verdict = watch(&live.text, drawn.token);
            all_end |= verdict == Verdict::EndAll;
            let ending = if self.request.end.contains(&drawn.token) {
                Some(Ending::EndToken)
            } else if verdict != Verdict::Continue {
                Some(Ending::Stopped)
            } else if live.text.tokens.len() >= self.request.max_new_tokens {
                Some(Ending::Length)
            } else {
                None
            };
            match ending {
                None => going_on.push(live),
                Some(ending) => {
                    live.text.ending = ending;
                    self.end(live.text.prompt, live.rows);
                    finished.push(live.text);
                }
            }
        }
        self.live = going_on;
        all_end
    }

    fn draw_one(&self, text: &Text, logits: &[f32]) -> Drawn {
        let Request {
            choice,
            min_new_tokens,
            end,
            seed,
            first,
            ..
        } = self.request;
        let step = text.tokens.len();
        let forbidden: &[u32] = if step < *min_new_tokens { end } else { &[] };
        let so_far = if choice.repetition_penalty == 1.0 {
            Vec::new()
        } else {
            [&self.prompts[text.prompt][..], &text.tokens].concat()
        };
        // A prompt's samples are told apart in the upper half of the address's number.
        let address = (first + text.prompt as u64) | (text.sample as u64) << 40;
        let uniform = stream(*seed, TOKEN, address, step as u64).random();
        choice.draw(logits, &so_far, forbidden, uniform)
    }

    /// Gives an ended text's rows back, and its prompt's with those of the last text that reads it.
    fn end(&mut self, prompt: usize, rows: Rows) {
        self.pages.release(rows);
        let slot = &mut self.shared[prompt];
        if let Some(mut shared) = slot.take() {
            shared.readers -= 1;
            if shared.readers == 0 {
                self.pages.release(shared.rows);
            } else {
                *slot = Some(shared);
            }
        }
    }
}

/// New tokens on their way into the cache.
#[derive(Default)]
struct Reading {
    tokens: Vec<u32>,
    positions: Vec<usize>,
    rows: Vec<usize>,
    spans: Vec<QuerySpan>,
}

impl Reading {
    /// Appends tokens of one text, whose keys so far are `before` and `rows`.
    fn read(&mut self, tokens: &[u32], rows: &mut Rows, before: Vec<KeySpan>, pages: &mut Pages) {
        let (start, position) = (self.tokens.len(), rows.next_position());
        for &token in tokens {
            self.tokens.push(token);
            self.positions.push(rows.next_position());
            self.rows.push(rows.push(pages));
        }
        self.spans.push(QuerySpan {
            rows: start..self.tokens.len(),
            position,
            keys: before.into_iter().chain(rows.spans()).collect(),
        });
    }
}

#[cfg(test)]
#[path = "generate_tests.rs"]
mod tests;
