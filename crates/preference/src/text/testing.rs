//! Small tokenizers for tests.

use serde_json::{Value as Json, json};

use super::special::{SpecialToken, SpecialTokens};
use super::tokenizer::{Parts, Tokenizer};

/// A ChatML template without generation blocks.
pub(super) const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}\
                                 {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// The character by which byte-level BPE writes a byte: itself if it is printable Latin-1, else one from U+0100 on.
fn byte_character(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        return char::from(byte);
    }
    let place = (0..byte).filter(|before| !printable(*before)).count() as u32;
    char::from_u32(256 + place).unwrap_or_default()
}

/// A byte-level BPE: 256 bytes, then `ab`, `Ġa`, `ĊĊ`, `Ġab`, and three special tokens: `<|end|>` 260, `<|im_start|>`
/// 261, `<|im_end|>` 262.
pub(super) fn byte_level() -> Json {
    let mut vocabulary = serde_json::Map::new();
    for byte in 0..=255u8 {
        vocabulary.insert(byte_character(byte).to_string(), json!(byte));
    }
    for (at, token) in ["ab", "Ġa", "ĊĊ", "Ġab"].iter().enumerate() {
        vocabulary.insert((*token).to_owned(), json!(256 + at));
    }
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(260, "<|end|>"), special(261, "<|im_start|>"), special(262, "<|im_end|>")],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                  "vocab": vocabulary, "merges": [["a", "b"], ["Ġ", "a"], ["Ċ", "Ċ"], ["Ġ", "ab"]]}
    })
}

/// A SentencePiece-like BPE with byte fallback, as Llama's: a space is put before every text, `<s>` is added.
pub(super) fn sentence_piece() -> Json {
    let mut vocabulary = serde_json::Map::new();
    for (at, token) in ["<unk>", "<s>", "</s>"].iter().enumerate() {
        vocabulary.insert((*token).to_owned(), json!(at));
    }
    for byte in 0..=255u32 {
        vocabulary.insert(format!("<0x{byte:02X}>"), json!(3 + byte));
    }
    for (at, token) in ["▁", "a", "b", "ab", "▁a", "▁ab", "é"].iter().enumerate() {
        vocabulary.insert((*token).to_owned(), json!(259 + at));
    }
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                       {"SpecialToken": {"id": "</s>", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]},
                               "</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                  "vocab": vocabulary, "merges": [["a", "b"], ["▁", "a"], ["▁", "ab"]]}
    })
}

/// Special tokens by name and text.
pub(super) fn special(named: &[(&str, &str)]) -> SpecialTokens {
    let mut special = SpecialTokens::default();
    for (name, content) in named {
        special.set(name, SpecialToken::from(*content));
    }
    special
}

/// The byte-level tokenizer with ChatML; `<|im_end|>` ends a text.
pub(crate) fn chatml() -> Tokenizer {
    Tokenizer::from_parts(Parts {
        tokenizer: byte_level(),
        special: special(&[("eos_token", "<|im_end|>"), ("pad_token", "<|end|>")]),
        end_ids: vec![260],
        chat_template: Some(CHATML.to_owned()),
        origin: "test".to_owned(),
    })
    .unwrap()
}

/// The byte-level tokenizer, with this one token at the end of a text.
pub(crate) fn ending(end: &str) -> Tokenizer {
    Tokenizer::from_parts(Parts {
        tokenizer: byte_level(),
        special: special(&[("eos_token", end)]),
        end_ids: Vec::new(),
        chat_template: None,
        origin: "test".to_owned(),
    })
    .unwrap()
}

/// The SentencePiece-like tokenizer; `</s>` ends a text.
pub(super) fn llama() -> Tokenizer {
    Tokenizer::from_parts(Parts {
        tokenizer: sentence_piece(),
        special: special(&[("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")]),
        end_ids: Vec::new(),
        chat_template: None,
        origin: "test".to_owned(),
    })
    .unwrap()
}
