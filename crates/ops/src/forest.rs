//! The layout of a batch of text: which tokens see which.
//!
//! Text is never padded. A batch is a flat list of tokens cut into segments; a segment may have a parent, whose tokens
//! (and whose parent's, and so on) it sees in full, while within the segment each token sees itself and those before
//! it. A prompt with K responses is one segment with K children, so the prompt's tokens are worked on once. Plain
//! sequences are segments without parents.

use std::ops::Range;

/// A run of consecutive tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The first token's place in the batch.
    pub start: usize,
    /// Number of tokens.
    pub length: usize,
    /// The segment that this one goes on from.
    pub parent: Option<usize>,
    /// The first token's position in its text: the number of tokens of all ancestors.
    pub position: usize,
}

impl Segment {
    /// The segment's tokens in the batch.
    #[must_use]
    pub fn tokens(&self) -> Range<usize> {
        self.start..self.start + self.length
    }
}

/// A batch's segments, in the order of their tokens.
///
/// ```
/// use posterior_ops::Forest;
///
/// let mut forest = Forest::default();
/// let prompt = forest.push(3, None);
/// forest.push(2, Some(prompt));
/// forest.push(1, Some(prompt));
/// assert_eq!(forest.tokens(), 6);
/// // Both responses go on where the prompt ends.
/// assert_eq!(forest.positions(), [0, 1, 2, 3, 4, 3]);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forest {
    segments: Vec<Segment>,
}

impl Forest {
    /// Sequences that have nothing to do with each other.
    #[must_use]
    pub fn sequences(lengths: impl IntoIterator<Item = usize>) -> Self {
        let mut forest = Self::default();
        for length in lengths {
            forest.push(length, None);
        }
        forest
    }

    /// Appends a segment and returns its number.
    ///
    /// # Panics
    ///
    /// When there is no segment `parent`.
    pub fn push(&mut self, length: usize, parent: Option<usize>) -> usize {
        let position = parent.map_or(0, |parent| {
            let parent = &self.segments[parent];
            parent.position + parent.length
        });
        self.segments.push(Segment {
            start: self.tokens(),
            length,
            parent,
            position,
        });
        self.segments.len() - 1
    }

    /// The segments.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Number of tokens.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.segments.last().map_or(0, |last| last.start + last.length)
    }

    /// Each token's position in its text.
    #[must_use]
    pub fn positions(&self) -> Vec<usize> {
        let positions = |segment: &Segment| segment.position..segment.position + segment.length;
        self.segments.iter().flat_map(positions).collect()
    }

    /// The segment and all its ancestors, the root first.
    #[must_use]
    pub fn path(&self, segment: usize) -> Vec<usize> {
        let mut path: Vec<usize> = std::iter::successors(Some(segment), |&at| self.segments[at].parent).collect();
        path.reverse();
        path
    }

    /// What attention needs to know: queries and keys are the batch's own tokens.
    #[must_use]
    pub fn layout(&self) -> Layout {
        let key_span = |at: usize| {
            let segment = &self.segments[at];
            KeySpan {
                rows: segment.tokens(),
                position: segment.position,
            }
        };
        let spans = (0..self.segments.len()).map(|at| QuerySpan {
            rows: self.segments[at].tokens(),
            position: self.segments[at].position,
            keys: self.path(at).into_iter().map(key_span).collect(),
        });
        Layout::new(spans.collect(), self.tokens())
    }
}

/// Which keys each query sees. In training queries and keys are the same tokens; in decoding the queries are the newest
/// tokens and the keys lie in a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    spans: Vec<QuerySpan>,
    keys: usize,
}

/// Consecutive queries and the keys of their text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuerySpan {
    /// The queries' rows.
    pub rows: Range<usize>,
    /// The first query's position in its text; the others follow.
    pub position: usize,
    /// Where the text's keys are, in the order of their positions. A query sees those at its own position and before.
    pub keys: Vec<KeySpan>,
}

/// Consecutive keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySpan {
    /// The keys' rows.
    pub rows: Range<usize>,
    /// The first key's position in its text; the others follow.
    pub position: usize,
}

impl QuerySpan {
    /// Number of keys.
    #[must_use]
    pub fn key_count(&self) -> usize {
        self.keys.iter().map(|keys| keys.rows.len()).sum()
    }

    /// The keys' positions.
    pub fn key_positions(&self) -> impl Iterator<Item = usize> + '_ {
        self.keys
            .iter()
            .flat_map(|keys| keys.position..keys.position + keys.rows.len())
    }
}

impl Layout {
    /// A layout of these spans over `keys` rows of keys.
    ///
    /// # Panics
    ///
    /// When the spans do not follow each other without gaps from row 0, keys lie outside, or a span's keys do not reach
    /// to its last query's position.
    #[must_use]
    pub fn new(spans: Vec<QuerySpan>, keys: usize) -> Self {
        let mut next = 0;
        for span in &spans {
            assert_eq!(span.rows.start, next, "layout: queries follow each other without gaps");
            next = span.rows.end;
            let mut position = 0;
            for part in &span.keys {
                assert!(
                    part.rows.end <= keys,
                    "layout: keys up to row {} of {keys}",
                    part.rows.end
                );
                assert!(
                    part.position >= position,
                    "layout: keys stand in the order of their positions"
                );
                position = part.position + part.rows.len();
            }
            assert!(
                span.rows.is_empty() || position >= span.position + span.rows.len(),
                "layout: a query's own key is among its keys"
            );
        }
        Self { spans, keys }
    }

    /// The spans.
    #[must_use]
    pub fn spans(&self) -> &[QuerySpan] {
        &self.spans
    }

    /// Number of queries.
    #[must_use]
    pub fn queries(&self) -> usize {
        self.spans.last().map_or(0, |span| span.rows.end)
    }

    /// Number of rows of keys.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.keys
    }

    /// The spans in groups that have no key in common, such as trees; both in order.
    #[must_use]
    pub fn groups(&self) -> Vec<Vec<usize>> {
        let mut ranges: Vec<(Range<usize>, usize)> = Vec::new();
        for (index, span) in self.spans.iter().enumerate() {
            ranges.extend(span.keys.iter().map(|part| (part.rows.clone(), index)));
        }
        ranges.retain(|(rows, _)| !rows.is_empty());
        ranges.sort_unstable_by_key(|(rows, index)| (rows.start, *index));
        // Each span points to one of its group with a smaller number, or to itself.
        let mut first: Vec<usize> = (0..self.spans.len()).collect();
        let find = |first: &[usize], mut at: usize| {
            while first[at] != at {
                at = first[at];
            }
            at
        };
        let mut reached: Option<(usize, usize)> = None;
        for (rows, index) in ranges {
            reached = match reached {
                Some((end, other)) if rows.start < end => {
                    let (a, b) = (find(&first, index), find(&first, other));
                    first[a.max(b)] = a.min(b);
                    Some((end.max(rows.end), index))
                }
                _ => Some((rows.end, index)),
            };
        }
        let mut groups: Vec<Vec<usize>> = vec![Vec::new(); self.spans.len()];
        for index in 0..self.spans.len() {
            groups[find(&first, index)].push(index);
        }
        groups.retain(|group| !group.is_empty());
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_sees_its_ancestors_and_itself() {
        let mut forest = Forest::default();
        let root = forest.push(2, None);
        let child = forest.push(3, Some(root));
        forest.push(1, Some(child));
        forest.push(4, None);
        let layout = forest.layout();
        assert_eq!((layout.queries(), layout.keys()), (10, 10));
        let rows: Vec<Vec<(usize, usize)>> = layout
            .spans()
            .iter()
            .map(|span| span.keys.iter().map(|keys| (keys.rows.start, keys.rows.end)).collect())
            .collect();
        assert_eq!(
            rows,
            [
                vec![(0, 2)],
                vec![(0, 2), (2, 5)],
                vec![(0, 2), (2, 5), (5, 6)],
                vec![(6, 10)]
            ]
        );
        let positions: Vec<Vec<usize>> = layout
            .spans()
            .iter()
            .map(|span| span.key_positions().collect())
            .collect();
        assert_eq!(positions[2], [0, 1, 2, 3, 4, 5]);
        assert_eq!(positions[3], [0, 1, 2, 3]);
        assert_eq!(forest.positions(), [0, 1, 2, 3, 4, 5, 0, 1, 2, 3]);
    }

    #[test]
    fn spans_with_a_key_in_common_are_a_group() {
        let mut forest = Forest::default();
        let root = forest.push(2, None);
        let other = forest.push(3, None);
        let child = forest.push(1, Some(root));
        forest.push(4, Some(other));
        forest.push(1, Some(child));
        forest.push(0, None);
        assert_eq!(forest.layout().groups(), [vec![0, 2, 4], vec![1, 3], vec![5]]);
        let span = |query: usize, rows: Range<usize>| QuerySpan {
            rows: query..query + 1,
            position: 0,
            keys: vec![KeySpan { rows, position: 0 }],
        };
        let chained = vec![
            span(0, 4..6),
            span(1, 0..2),
            span(2, 5..9),
            span(3, 2..4),
            span(4, 8..9),
        ];
        assert_eq!(Layout::new(chained, 9).groups(), [vec![0, 2, 4], vec![1], vec![3]]);
    }

    #[test]
    #[should_panic(expected = "a query's own key")]
    fn a_query_without_its_own_key_is_refused() {
        let keys = vec![KeySpan {
            rows: 0..2,
            position: 0,
        }];
        let span = QuerySpan {
            rows: 0..1,
            position: 2,
            keys,
        };
        let _ = Layout::new(vec![span], 2);
    }
}
