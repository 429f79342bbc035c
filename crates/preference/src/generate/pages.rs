//! Which rows of a cache belong to which text.

use ops::KeySpan;

/// Rows that a text takes at a time.
const PAGE: usize = 32;

/// The free pages of a cache.
#[derive(Debug, Default)]
pub(super) struct Pages {
    free: Vec<usize>,
    count: usize,
}

/// The rows of one text's own tokens, in order, in whole pages.
#[derive(Debug)]
pub(super) struct Rows {
    pages: Vec<usize>,
    length: usize,
    /// The position of the first token.
    position: usize,
}

impl Pages {
    /// Rows that a cache needs to hold all pages.
    pub(super) fn capacity(&self) -> usize {
        self.count * PAGE
    }

    /// Takes the pages of a text that ended back.
    pub(super) fn release(&mut self, rows: Rows) {
        self.free.extend(rows.pages);
    }

    fn take(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.count += 1;
            self.count - 1
        })
    }
}

impl Rows {
    /// No rows yet, of a text whose first own token has this position.
    pub(super) fn new(position: usize) -> Self {
        Self {
            pages: Vec::new(),
            length: 0,
            position,
        }
    }

    /// One more row.
    pub(super) fn push(&mut self, pages: &mut Pages) -> usize {
        if self.length == self.pages.len() * PAGE {
            self.pages.push(pages.take());
        }
        let row = self.pages[self.length / PAGE] * PAGE + self.length % PAGE;
        self.length += 1;
        row
    }

    /// The position of the next token.
    pub(super) fn next_position(&self) -> usize {
        self.position + self.length
    }

    /// Where the keys are.
    pub(super) fn spans(&self) -> impl Iterator<Item = KeySpan> + '_ {
        self.pages.iter().enumerate().map(|(number, page)| {
            let (before, start) = (number * PAGE, page * PAGE);
            KeySpan {
                rows: start..start + PAGE.min(self.length - before),
                position: self.position + before,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_in_pages_and_pages_come_back() {
        let mut pages = Pages::default();
        let (mut a, mut b) = (Rows::new(0), Rows::new(5));
        let of_a: Vec<usize> = (0..PAGE).map(|_| a.push(&mut pages)).collect();
        let of_b = b.push(&mut pages);
        let more = a.push(&mut pages);
        assert_eq!((of_a[0], of_a[PAGE - 1], of_b, more), (0, PAGE - 1, PAGE, 2 * PAGE));
        let spans: Vec<KeySpan> = a.spans().collect();
        assert_eq!((spans[0].rows.clone(), spans[0].position), (0..PAGE, 0));
        assert_eq!(
            (spans[1].rows.clone(), spans[1].position),
            (2 * PAGE..2 * PAGE + 1, PAGE)
        );
        assert_eq!(
            (b.next_position(), b.spans().next().map(|span| span.position)),
            (6, Some(5))
        );
        pages.release(a);
        assert_eq!(pages.capacity(), 3 * PAGE);
        let mut c = Rows::new(0);
        c.push(&mut pages);
        assert_eq!(pages.capacity(), 3 * PAGE);
    }
}
