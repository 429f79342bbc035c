use super::*;
use exact::fit::{FitOptions, fit};
use proptest::prelude::*;

fn parsed(text: &str, layout: Layout) -> Dataset {
    parse(text.as_bytes(), layout).unwrap()
}

fn refused(text: &str, layout: Layout) -> String {
    parse(text.as_bytes(), layout).unwrap_err().to_string()
}

#[test]
fn every_shape_says_the_same() {
    let mut expected = Dataset::new();
    expected.add_ranking(&[vec!["a"], vec!["b", "c"]], &["d"], 1.0).unwrap();
    expected.add_comparison("a", "b", 2.0).unwrap();
    expected.add_tie("c", "d", 1.0).unwrap();

    let lines = "{\"ranking\": [\"a\", [\"b\", \"c\"]], \"others\": [\"d\"]}\n\n\
                 {\"winner\": \"a\", \"loser\": \"b\", \"count\": 2}\n\
                 {\"winner\": \"c\", \"loser\": \"d\", \"tie\": true}";
    assert_eq!(parsed(lines, Layout::Jsonl), expected);
    let wide = "1,2,others,count\na,b=c,d,1\na,b,,2\nc = d,,,1\n";
    assert_eq!(parsed(wide, Layout::Csv), expected);
    assert_eq!(parsed(&wide.replace(',', "\t"), Layout::Tsv), expected);

    let mut expected = Dataset::new();
    expected
        .add_ranking(&[vec!["a"], vec!["b", "c"]], &[""; 0], 1.0)
        .unwrap();
    expected.add_comparison("c", "a", 1.0).unwrap();
    // Ranks need no order of rows and no steps of one; rankings are told apart by their name alone.
    let long = "\u{feff}Ranking, Item, Rank\r\nx,a,1\r\ny,a,7\r\nx,b,2\r\nx,c,2\r\ny,c,-3\r\n";
    assert_eq!(parsed(long, Layout::Csv), expected);
    let comparisons = "count,tie,loser,winner\n2,,b,a\n1,TRUE,b,a\n0.5,0,a,b\n";
    let mut expected = Dataset::new();
    expected.add_comparison("a", "b", 2.0).unwrap();
    expected.add_tie("a", "b", 1.0).unwrap();
    expected.add_comparison("b", "a", 0.5).unwrap();
    assert_eq!(parsed(comparisons, Layout::Csv), expected);
}

#[test]
fn short_rows_end_a_ranking_and_quotes_protect_a_name() {
    let data = parsed("1,2,3\na,\"b, the second\"\nb,a,c\n", Layout::Csv);
    assert_eq!(data.names(), ["a", "b, the second", "b", "c"]);
}

#[test]
fn errors_name_the_line() {
    let csv = |text: &str| refused(text, Layout::Csv);
    assert!(csv("").starts_with("line 1: the header `` is none of"));
    assert!(csv("winer,loser\na,b\n").starts_with("line 1: the header `winer,loser` is none of"));
    assert!(csv("1,3\na,b\n").starts_with("line 1: the header"));
    assert_eq!(
        csv("winner,winner,loser\n"),
        "line 1: the column `winner` appears twice in the header"
    );
    assert_eq!(
        csv("winner,loser\na,b\n\r\na\n"),
        "line 4: 1 cells under a header of 2; quote cells that contain the separator"
    );
    assert_eq!(
        csv("winner,loser\r\na,b\r\nb,\r\n"),
        "line 3: the cell under `loser` is empty"
    );
    assert_eq!(
        csv("winner,loser\na,a\n"),
        "line 2: item \"a\" appears twice; a ranking places every item once"
    );
    assert_eq!(
        csv("winner,loser,count\na,b,x\n"),
        "line 2: `x` under `count` is not a number"
    );
    assert_eq!(
        csv("winner,loser,count\na,b,-1\n"),
        "line 2: its count is -1; it must be positive and finite"
    );
    assert_eq!(
        csv("winner,loser,tie\na,b,draw\n"),
        "line 2: `draw` under `tie` is not true, false, 1, 0 or empty"
    );
    assert_eq!(
        csv("1,2,3\na,,b\n"),
        "line 2: place 2 has no item; leave no gaps between the places"
    );
    assert_eq!(
        csv("1,2\na,b=\n"),
        "line 2: `b=` under `1,2,3,..` is not items on both sides of `=`"
    );
    assert_eq!(
        csv("1,others\na,b||c\n"),
        "line 2: `b||c` under `others` is not items on both sides of `|`"
    );
    assert_eq!(
        csv("ranking,item,rank\nx,a,first\n"),
        "line 2: `first` under `rank` is not a whole number"
    );
    let alone =
        "line 3: in ranking `y`, which begins here: it has fewer than two items, so it says nothing; leave it out";
    assert_eq!(csv("ranking,item,rank\nx,a,1\ny,a,1\nx,b,2\n"), alone);

    let json = |text: &str| refused(text, Layout::Jsonl);
    assert!(json("\n{\"winner\": \"a\"").starts_with("line 2: EOF"));
    assert!(json("{\"winner\": \"a\"}").starts_with("line 1: the line needs either"));
    assert!(json("{\"ranking\": [\"a\"], \"tie\": true}").starts_with("line 1: the line needs either"));
    assert!(json("{\"ranking\": [1]}").contains("a place of `ranking` must be an item's name or a list"));
    assert!(json("{\"ranks\": []}").contains("unknown field `ranks`"));
    let latin = parse(b"winner,loser\na,b\n\xe9,b\n", Layout::Csv)
        .unwrap_err()
        .to_string();
    assert_eq!(latin, "line 3: the text is not UTF-8; convert the file");
}

proptest! {
    #[test]
    fn any_bytes_are_data_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for layout in [Layout::Csv, Layout::Tsv, Layout::Jsonl] {
            let _ = parse(&bytes, layout);
        }
    }

    #[test]
    fn any_table_is_data_or_an_error(
        header in "(winner,loser(,count)?(,tie)?|1,2(,3)?(,others)?(,count)?|ranking,item,rank)",
        rows in "([abcx1-3=|\" .-]{0,4}[,\n\r]){0,40}",
    ) {
        if let Ok(data) = parse(format!("{header}\n{rows}").as_bytes(), Layout::Csv) {
            let _ = fit(&data, FitOptions::default());
        }
    }

    #[test]
    fn any_json_like_text_is_data_or_an_error(text in r#"(\{("ranking"|"others"|"count"|"tie"|"winner"|"loser"|:|,|\["a"\]|"[ab]"|1|true){0,12}\}\n?){0,4}"#) {
        let _ = parse(text.as_bytes(), Layout::Jsonl);
    }
}
