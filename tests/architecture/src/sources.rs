//! What may stand in a source file.

/// The longest file that is still read in one sitting.
pub const MAX_LINES: usize = 800;

/// Where `unsafe` may stand: folders end with a slash, files do not.
///
/// Users' memory becomes regions in `core/src/memory.rs`; vector instructions are in the kernels; shared
/// memory and the C ABI need it throughout. Tests of those and programs that count allocations or link C
/// code have it too.
const UNSAFE_ALLOWED: [&str; 6] =
    ["core/src/memory.rs", "algorithms/src/kernels/", "transports/shm/", "ffi/", "tests/", "benches/"];

/// Whether `unsafe` may stand in the file at `path`, seen from the root.
pub fn may_hold_unsafe(path: &str) -> bool {
    UNSAFE_ALLOWED.iter().any(|place| match place.ends_with('/') {
        true => path.starts_with(place),
        false => path == *place,
    })
}

/// The lines, counted from 1, whose code holds the keyword `unsafe`.
pub fn unsafe_lines(source: &str) -> Vec<usize> {
    let code = without_comments_and_strings(source);
    let holds_keyword =
        |line: &str| line.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|word| word == "unsafe");
    code.lines().enumerate().filter(|(_, line)| holds_keyword(line)).map(|(at, _)| at + 1).collect()
}

/// The source with the insides of comments and string literals blanked, line by line.
fn without_comments_and_strings(source: &str) -> String {
    let mut rest = source;
    let mut code = String::with_capacity(source.len());
    while let Some(c) = rest.chars().next() {
        let length = skipped_length(rest);
        if length == 0 {
            code.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        }
        code.extend(rest[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &rest[length..];
    }
    code
}

/// Bytes of the comment or literal that `rest` starts with, or 0.
fn skipped_length(rest: &str) -> usize {
    let up_to = |end: Option<usize>| end.unwrap_or(rest.len());
    if rest.starts_with("//") {
        return up_to(rest.find('\n'));
    }
    if rest.starts_with("/*") {
        return up_to(rest.find("*/").map(|at| at + 2));
    }
    if let Some(hashes) = raw_string_hashes(rest) {
        let end = format!("\"{}", "#".repeat(hashes));
        let body = 2 + hashes;
        return up_to(rest[body..].find(&end).map(|at| body + at + end.len()));
    }
    if rest.starts_with('"') {
        return string_length(rest);
    }
    // A quote in a character literal would otherwise open a string.
    if rest.starts_with("'\"'") { 3 } else { 0 }
}

/// The number of `#` of a raw string that `rest` starts with.
fn raw_string_hashes(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix('r')?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    after[hashes..].starts_with('"').then_some(hashes)
}

fn string_length(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keyword_is_found_in_code_only() {
        let source =
            "// unsafe\nunsafe { f() }\nlet a = \"unsafe\";\n/* unsafe\nunsafe */ unsafe fn g() {}\n";
        assert_eq!(unsafe_lines(source), [2, 5]);
    }

    #[test]
    fn words_around_the_keyword_do_not_count() {
        assert_eq!(unsafe_lines("#![forbid(unsafe_code)]\n#![deny(unsafe_op_in_unsafe_fn)]\n"), []);
    }

    #[test]
    fn quotes_do_not_hide_code() {
        assert_eq!(unsafe_lines("let q = '\"'; unsafe { f() }\n"), [1]);
        assert_eq!(unsafe_lines("let s = \"a \\\" unsafe\"; unsafe {}\n"), [1]);
        assert_eq!(unsafe_lines("let s = r#\"\" unsafe \"#;\nunsafe {}\n"), [2]);
    }

    #[test]
    fn places_are_files_or_folders() {
        assert!(may_hold_unsafe("core/src/memory.rs"));
        assert!(may_hold_unsafe("algorithms/src/kernels/avx2.rs"));
        assert!(!may_hold_unsafe("core/src/memory.rs.rs"));
        assert!(!may_hold_unsafe("core/src/frame.rs"));
        assert!(!may_hold_unsafe("transports/tcp/src/link.rs"));
    }
}
