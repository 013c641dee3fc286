//! What automod rules find in a text. Spec: objects.md › Auto moderation rule.
//!
//! Pure: rules are compiled once and asked for every message; the time an answer takes is
//! bounded by the length of the text and the number of patterns, whatever they are.

use std::collections::BTreeSet;

use aho_corasick::{AhoCorasick, MatchKind};
use regex::{Regex, RegexBuilder};

use super::presets;

/// Compiled size of one pattern, bytes: counted repetitions grow fast.
const REGEX_SIZE_MAX: usize = 1 << 18;
/// Depth of groups in a pattern.
const REGEX_NEST_MAX: u32 = 32;
/// Links in one message that nobody writes by hand.
const SPAM_LINKS: usize = 8;
/// Words from which on a message that repeats one of them counts as spam.
const SPAM_WORDS: usize = 20;

/// What a rule looks for, ready to be asked.
#[derive(Debug)]
pub(crate) enum Matcher {
    Words(Box<Words>),
    Spam,
    /// More different users and roles than this.
    Mentions(usize),
}

/// Keywords and patterns, and what is fine all the same.
#[derive(Debug)]
pub(crate) struct Words {
    keywords: Keywords,
    allowed: Keywords,
    patterns: Vec<Regex>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// The rule's keyword or pattern, if it has any.
    pub(crate) keyword: Option<String>,
    /// The part of the text.
    pub(crate) content: String,
}

/// A pattern, or `None` if it is not one or too big.
pub(crate) fn compile_pattern(pattern: &str) -> Option<Regex> {
    RegexBuilder::new(pattern)
        .case_insensitive(true)
        .size_limit(REGEX_SIZE_MAX)
        .dfa_size_limit(REGEX_SIZE_MAX)
        .nest_limit(REGEX_NEST_MAX)
        .build()
        .ok()
}

impl Matcher {
    /// Patterns that do not compile find nothing: rules are checked before they are stored.
    pub(crate) fn words<'a>(
        keywords: impl IntoIterator<Item = &'a str>,
        patterns: impl IntoIterator<Item = &'a str>,
        allowed: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        Self::Words(Box::new(Words {
            keywords: Keywords::new(keywords),
            allowed: Keywords::new(allowed),
            patterns: patterns.into_iter().filter_map(compile_pattern).collect(),
        }))
    }

    /// The lists of these presets.
    pub(crate) fn presets<'a>(kinds: &[u8], allowed: impl IntoIterator<Item = &'a str>) -> Self {
        let words = kinds.iter().flat_map(|&kind| presets::words(kind));
        Self::words(words.copied(), [], allowed)
    }

    pub(crate) fn find(&self, text: &str) -> Option<Found> {
        match self {
            Self::Words(words) => words.find(text),
            Self::Spam => is_spam(text).then(|| Found {
                keyword: None,
                content: text.to_owned(),
            }),
            Self::Mentions(limit) => (mentions(text) > *limit).then(|| Found {
                keyword: None,
                content: text.to_owned(),
            }),
        }
    }

    /// [`Self::find`] in a message of several texts; `whole` is all of them. Words are looked
    /// for in each by itself: a pattern may say where a text begins.
    pub(crate) fn find_in(&self, texts: &[&str], whole: &str) -> Option<Found> {
        match self {
            Self::Words(words) => texts.iter().find_map(|text| words.find(text)),
            Self::Spam | Self::Mentions(_) => self.find(whole),
        }
    }
}

impl Words {
    fn find(&self, text: &str) -> Option<Found> {
        let text = Lowered::new(text);
        let allowed = self.allowed.spans(&text.lower);
        let keyword = self.keywords.spans(&text.lower).into_iter().find(|hit| {
            let inside = |fine: &Span| fine.start <= hit.start && hit.end <= fine.end;
            !allowed.iter().any(inside)
        });
        if let Some(hit) = keyword {
            return Some(Found {
                keyword: Some(self.keywords.written[hit.pattern].clone()),
                content: text.original(hit.start, hit.end).to_owned(),
            });
        }
        self.patterns.iter().find_map(|pattern| {
            let hit = pattern.find(text.text).filter(|hit| !hit.is_empty())?;
            Some(Found {
                keyword: Some(pattern.as_str().to_owned()),
                content: hit.as_str().to_owned(),
            })
        })
    }
}

/// A text in lower case, and where each byte of it came from: the lower case of a letter may
/// be longer or shorter than the letter.
struct Lowered<'a> {
    text: &'a str,
    lower: String,
    /// For each byte of `lower`: where its letter starts and ends in `text`.
    origin: Vec<(u32, u32)>,
}

impl<'a> Lowered<'a> {
    fn new(text: &'a str) -> Self {
        let mut lower = String::with_capacity(text.len());
        let mut origin = Vec::with_capacity(text.len());
        for (at, letter) in text.char_indices() {
            let before = lower.len();
            lower.extend(letter.to_lowercase());
            let end = at + letter.len_utf8();
            origin.extend((before..lower.len()).map(|_| (at as u32, end as u32)));
        }
        Self {
            text,
            lower,
            origin,
        }
    }

    fn original(&self, start: usize, end: usize) -> &'a str {
        let first = self.origin.get(start).map_or(0, |origin| origin.0 as usize);
        let last = end.checked_sub(1).and_then(|last| self.origin.get(last));
        let last = last.map_or(first, |origin| origin.1 as usize);
        self.text.get(first..last).unwrap_or_default()
    }
}

/// Keywords: case does not count; whole words, unless `*` at an end lets the word go on.
#[derive(Debug)]
struct Keywords {
    /// `None` without keywords.
    automaton: Option<AhoCorasick>,
    /// By pattern of the automaton: whether the word may go on before and after it.
    open: Vec<(bool, bool)>,
    /// As the rule says it.
    written: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    pattern: usize,
    start: usize,
    end: usize,
}

impl Keywords {
    fn new<'a>(keywords: impl IntoIterator<Item = &'a str>) -> Self {
        let (mut needles, mut open, mut written) = (Vec::new(), Vec::new(), Vec::new());
        for keyword in keywords {
            let core = keyword.trim().trim_matches('*');
            let core: String = core.chars().flat_map(char::to_lowercase).collect();
            if core.is_empty() {
                continue;
            }
            let trimmed = keyword.trim();
            needles.push(core);
            open.push((trimmed.starts_with('*'), trimmed.ends_with('*')));
            written.push(keyword.to_owned());
        }
        let automaton = (!needles.is_empty()).then(|| {
            AhoCorasick::builder()
                .match_kind(MatchKind::Standard)
                .build(&needles)
                .ok()
        });
        Self {
            automaton: automaton.flatten(),
            open,
            written,
        }
    }

    /// All hits, in order of their ends; of words that may go on, as far as the word goes.
    fn spans(&self, lower: &str) -> Vec<Span> {
        let Some(automaton) = &self.automaton else {
            return Vec::new();
        };
        let hits = automaton.find_overlapping_iter(lower);
        hits.filter_map(|hit| {
            let pattern = hit.pattern().as_usize();
            let (before_open, after_open) = self.open[pattern];
            let before = word_length(lower[..hit.start()].chars().rev());
            let after = word_length(lower[hit.end()..].chars());
            // A keyword that starts or ends with a sign needs no boundary there.
            let core = &lower[hit.start()..hit.end()];
            let before = before * usize::from(core.starts_with(is_word));
            let after = after * usize::from(core.ends_with(is_word));
            let fits = (before == 0 || before_open) && (after == 0 || after_open);
            fits.then_some(Span {
                pattern,
                start: hit.start() - before,
                end: hit.end() + after,
            })
        })
        .collect()
    }
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric()
}

/// Bytes until the word is over.
fn word_length(letters: impl Iterator<Item = char>) -> usize {
    let word = letters.take_while(|&letter| is_word(letter));
    word.map(char::len_utf8).sum()
}

/// Different users and roles that a text mentions.
fn mentions(text: &str) -> usize {
    let mut seen = BTreeSet::new();
    for part in text.split('<').skip(1) {
        let Some((inside, _)) = part.split_once('>') else {
            continue;
        };
        let digits = inside
            .strip_prefix("@&")
            .or_else(|| inside.strip_prefix("@!"))
            .or_else(|| inside.strip_prefix('@'));
        let is_id = |digits: &&str| {
            (1..=20).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_digit())
        };
        if let Some(digits) = digits.filter(is_id) {
            seen.insert((inside.starts_with("@&"), digits));
        }
    }
    seen.len()
}

/// What no person writes: many links, or one word over and over.
fn is_spam(text: &str) -> bool {
    let links = text.matches("http://").count() + text.matches("https://").count();
    if links >= SPAM_LINKS {
        return true;
    }
    let lower = text.to_lowercase();
    let mut words: Vec<&str> = lower.split_whitespace().collect();
    if words.len() < SPAM_WORDS {
        return false;
    }
    words.sort_unstable();
    let most = words
        .chunk_by(|a, b| a == b)
        .map(<[&str]>::len)
        .max()
        .unwrap_or(0);
    most * 5 >= words.len() * 4
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(keywords: &[&str], allowed: &[&str], text: &str) -> Option<String> {
        let matcher = Matcher::words(keywords.iter().copied(), [], allowed.iter().copied());
        matcher.find(text).map(|found| found.content)
    }

    #[test]
    fn keywords_are_whole_words_unless_they_are_open() {
        let cases = [
            ("cat", "a CAT!", Some("CAT")),
            ("cat", "concat", None),
            ("cat", "cats", None),
            ("cat*", "Cats and", Some("Cats")),
            ("cat*", "concat", None),
            ("*cat", "concat", Some("concat")),
            ("*cat", "cats", None),
            ("*cat*", "concatenate", Some("concatenate")),
            ("bad cat", "a bad  cat", None),
            ("bad cat", "a bad cat.", Some("bad cat")),
            ("ÜBEL", "das ist übel", Some("übel")),
            ("c++", "c++!", Some("c++")),
            ("*", "anything", None),
        ];
        for (keyword, text, wanted) in cases {
            let got = found(&[keyword], &[], text);
            assert_eq!(got.as_deref(), wanted, "{keyword:?} in {text:?}");
        }
    }

    #[test]
    fn what_is_allowed_is_passed_over() {
        assert_eq!(
            found(&["*ass*"], &["class", "pass*"], "passing class"),
            None
        );
        let got = found(&["*ass*"], &["class"], "class assault");
        assert_eq!(got.as_deref(), Some("assault"));
    }

    #[test]
    fn patterns_ignore_case_and_big_ones_are_refused() {
        let matcher = Matcher::words([], ["b[a4]d+"], []);
        let found = matcher.find("so B4DD").unwrap();
        assert_eq!(found.content, "B4DD");
        assert_eq!(found.keyword.as_deref(), Some("b[a4]d+"));
        assert!(compile_pattern(r"(\w{1000}){1000}").is_none());
        assert!(compile_pattern("(").is_none());
        // The empty match of a star is none.
        assert_eq!(Matcher::words([], ["x*"], []).find("abc"), None);
    }

    #[test]
    fn words_are_in_one_text_and_mentions_in_all() {
        let find_in = |matcher: Matcher, texts: &[&str]| {
            let found = matcher.find_in(texts, &texts.join("\n"));
            found.map(|found| found.content)
        };
        let begins = || Matcher::words([], ["^cat$"], []);
        assert_eq!(find_in(begins(), &["a dog", "cat"]).as_deref(), Some("cat"));
        assert_eq!(find_in(begins(), &["a cat", "dog"]), None);
        let two = Matcher::Mentions(2);
        assert!(find_in(two, &["<@1> <@2>", "<@2> <@3>"]).is_some());
        assert_eq!(find_in(Matcher::Mentions(0), &[]), None);
    }

    #[test]
    fn mentions_count_once_each() {
        let matcher = Matcher::Mentions(2);
        assert!(matcher.find("<@1> <@!1> <@1> <@&1>").is_none());
        assert!(matcher.find("<@1><@2><@&1>").is_some());
        assert!(matcher.find("<@x> <@1> <@ 2> <@&3").is_none());
    }

    #[test]
    fn spam_is_links_or_one_word() {
        assert!(is_spam(&"https://x.example ".repeat(8)));
        assert!(is_spam(&"Buy buy ".repeat(10)));
        assert!(!is_spam(
            "a rather long sentence that has many words of which none is there more often than the others are, is it"
        ));
    }

    /// The slow way: every place of the text is tried.
    fn reference(keyword: &str, text: &str) -> bool {
        let lower: Vec<char> = text.chars().flat_map(char::to_lowercase).collect();
        let core: Vec<char> = keyword
            .trim_matches('*')
            .chars()
            .flat_map(char::to_lowercase)
            .collect();
        if core.is_empty() {
            return false;
        }
        (0..lower.len()).any(|at| {
            if !lower[at..].starts_with(&core) {
                return false;
            }
            let before = at.checked_sub(1).map(|at| lower[at]);
            let after = lower.get(at + core.len()).copied();
            let free = |edge: char, other: Option<char>| {
                !edge.is_alphanumeric() || !other.is_some_and(char::is_alphanumeric)
            };
            (keyword.starts_with('*') || free(core[0], before))
                && (keyword.ends_with('*') || free(core[core.len() - 1], after))
        })
    }

    proptest! {
        #[test]
        fn many_keywords_find_what_each_finds_alone(
            keywords in prop::collection::vec(r"\*?[aAbßİ!]{1,3}\*?", 1..6),
            text in "[aAbBßİ! ]{0,12}",
        ) {
            let all = Keywords::new(keywords.iter().map(String::as_str));
            let lower = Lowered::new(&text).lower;
            let hits: BTreeSet<String> = all
                .spans(&lower)
                .into_iter()
                .map(|hit| all.written[hit.pattern].clone())
                .collect();
            let wanted: BTreeSet<String> =
                keywords.into_iter().filter(|keyword| reference(keyword, &text)).collect();
            prop_assert_eq!(hits, wanted);
        }

        #[test]
        fn what_is_found_is_a_part_of_the_text(
            keyword in r"\*?\PC{1,4}\*?", pattern in "[a-c.*+?]{0,6}", text: String,
        ) {
            let matcher = Matcher::words([keyword.as_str()], [pattern.as_str()], []);
            if let Some(found) = matcher.find(&text) {
                prop_assert!(text.contains(&found.content));
            }
        }

        #[test]
        fn no_text_panics(text: String) {
            for matcher in [
                Matcher::Spam,
                Matcher::Mentions(1),
                Matcher::presets(&[1, 2, 3], []),
            ] {
                let _ = matcher.find(&text);
            }
        }
    }
}
