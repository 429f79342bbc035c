use proptest::prelude::*;

use super::super::testing::{chatml, llama};
use super::*;

fn pieces(tokenizer: &Tokenizer, ids: &[u32], with_special: bool) -> Vec<String> {
    let mut stream = tokenizer.decode_stream(with_special);
    let mut pieces: Vec<String> = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
    pieces.push(stream.finish().unwrap());
    pieces
}

#[test]
fn characters_come_whole() {
    let byte_level = chatml();
    assert_eq!(
        pieces(&byte_level, &[256, 0xc3, 0xa9, 259, 261, 0xe2, 0x82], true),
        ["ab", "", "é", " ab", "<|im_start|>", "", "", "\u{fffd}"]
    );
    assert_eq!(pieces(&byte_level, &[261, 256, 262], false), ["", "ab", "", ""]);
    // Bytes that can be no character are given out once it is clear.
    assert_eq!(
        pieces(&byte_level, &[0xff, 0xff, 97], true),
        ["", "\u{fffd}", "\u{fffd}a", ""]
    );

    let llama = llama();
    // The first space falls away, bytes wait for the end of their run.
    assert_eq!(
        pieces(&llama, &[1, 263, 264, 3 + 0xc3, 3 + 0xa9, 260, 3 + 10], false),
        ["", "a", " ab", "", "", "éa", "", "\n"]
    );
    assert_eq!(
        pieces(&llama, &[3 + 0xe2, 3 + 0x82, 3 + 0xac, 3 + 0xff, 261], true).concat(),
        "\u{fffd}\u{fffd}\u{fffd}\u{fffd}b"
    );
}

#[test]
fn long_texts_keep_a_short_window() {
    for (tokenizer, id) in [(chatml(), 259), (chatml(), 0xff), (llama(), 264)] {
        let mut stream = tokenizer.decode_stream(true);
        for _ in 0..1_000 {
            stream.push(id).unwrap();
            assert!(stream.window.len() < WINDOW, "id {id}");
        }
    }
}

proptest! {
    #[test]
    fn the_pieces_are_the_whole(
        ids in proptest::collection::vec(prop_oneof![0u32..270, 256u32..266, 0x80u32..0x100], 0..120), with_special: bool,
    ) {
        for tokenizer in [chatml(), llama()] {
            let whole = tokenizer.decode(&ids, with_special).unwrap();
            prop_assert_eq!(pieces(&tokenizer, &ids, with_special).concat(), whole);
        }
    }

    #[test]
    fn text_is_streamed_without_replacement_characters(text in "\\PC{0,60}") {
        for tokenizer in [chatml(), llama()] {
            let ids = tokenizer.encode(&text, false).unwrap();
            let pieces = pieces(&tokenizer, &ids, true);
            prop_assert!(text.contains(REPLACEMENT) || pieces.iter().all(|piece| !piece.contains(REPLACEMENT)));
            prop_assert_eq!(pieces.concat(), text.clone());
        }
    }
}
