//! What training is given: ids, and which of them are learned.

/// A prompt and one response to it. The prompt is context, every token of the response is learned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Example {
    /// The prompt's ids: those that generation would start from.
    pub prompt: Vec<u32>,
    /// The response's ids, the end token included.
    pub response: Vec<u32>,
}

/// A prompt and several responses to it. All follow the same prompt ids, so the prompt need be computed only once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranked {
    /// The prompt's ids.
    pub prompt: Vec<u32>,
    /// The responses' ids, in the order they were given, end tokens included.
    pub responses: Vec<Vec<u32>>,
}

/// A sequence of which some tokens are learned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// The ids.
    pub ids: Vec<u32>,
    /// For each id whether its prediction is learned.
    pub learned: Vec<bool>,
}

impl Example {
    /// The number of tokens.
    pub fn len(&self) -> usize {
        self.prompt.len() + self.response.len()
    }

    /// Whether there is no token at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Example> for Ranked {
    fn from(example: Example) -> Self {
        Self {
            prompt: example.prompt,
            responses: vec![example.response],
        }
    }
}

impl From<Example> for Trace {
    fn from(example: Example) -> Self {
        let mut learned = vec![false; example.prompt.len()];
        learned.resize(example.len(), true);
        let mut ids = example.prompt;
        ids.extend(example.response);
        Self { ids, learned }
    }
}

impl Trace {
    /// A sequence that is learned from its first token to its last.
    pub fn whole(ids: Vec<u32>) -> Self {
        let learned = vec![true; ids.len()];
        Self { ids, learned }
    }

    /// The number of tokens that are learned.
    pub fn learned_tokens(&self) -> usize {
        self.learned.iter().filter(|learned| **learned).count()
    }
}
