//! What the README promises: every promise of the design names a test that is there, and every session with a server works.

use std::path::Path;
use std::process::Command;

use crate::Result;
use crate::server::Server;

/// P1 to P12 of the design.
const PROMISES: usize = 12;
/// Where the server listens by default; the README shows it.
const SHOWN_PORT: &str = "6885";

/// What is wrong with the promises: each needs a line with a link to a file of this repository that has tests.
/// `read` gives the text of such a file, if it is there.
pub(super) fn problems(readme: &str, read: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    (1..=PROMISES).filter_map(|number| problem(readme, number, read)).collect()
}

fn problem(readme: &str, number: usize, read: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let name = format!("P{number}");
    let lines: Vec<&str> = readme.lines().filter(|line| words(line).any(|word| word == name)).collect();
    if lines.is_empty() {
        return Some(format!("README.md has no line about {name}"));
    }
    let tests: Vec<&str> = lines.iter().flat_map(|line| links(line)).filter(|link| is_rust(link)).collect();
    if tests.is_empty() {
        return Some(format!("README.md links no test file for {name}"));
    }
    let empty =
        |path: &&&str| !read(path).is_some_and(|text| text.contains("#[test]") || text.contains("::test"));
    tests.iter().find(empty).map(|path| format!("{name}: {path} is no file with tests"))
}

fn is_rust(link: &str) -> bool {
    Path::new(link).extension().is_some_and(|extension| extension == "rs")
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_ascii_alphanumeric())
}

/// The targets of Markdown links to files of this repository, without anchors.
fn links(line: &str) -> impl Iterator<Item = &str> {
    let targets = line.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    targets
        .map(|(target, _)| target.split('#').next().unwrap_or(target))
        .filter(|target| !target.contains("://"))
}

/// The blocks of shell code that talk to a server: those in which a line begins with `curl`, whole.
pub(super) fn sessions(readme: &str) -> Vec<String> {
    let mut sessions = Vec::new();
    let mut block: Option<String> = None;
    for line in readme.lines() {
        let fence = line.strip_prefix("```");
        match (fence, block.take()) {
            (Some("sh" | "bash"), None) => block = Some(String::new()),
            (None, Some(text)) => block = Some(format!("{text}{line}\n")),
            (Some(_), Some(text)) if text.lines().any(|line| line.starts_with("curl ")) => {
                sessions.push(text);
            }
            (Some(_) | None, _) => {}
        }
    }
    sessions
}

/// Starts a server in a folder of its own and plays every session there, in order. Every command must succeed.
pub(super) fn play(binary: &Path, sessions: &[String]) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let server = Server::start(binary, directory.path(), &[])?;
    for session in sessions {
        println!("{session}");
        let here = session.replace(SHOWN_PORT, &server.address().port().to_string());
        // An answer of 400 or more is a failure here.
        let script =
            format!("curl() {{ command curl --fail-with-body --silent --show-error \"$@\"; }}\n{here}");
        let output =
            Command::new("bash").args(["-e", "-c", &script]).current_dir(directory.path()).output()?;
        let said =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        println!("{said}");
        if !output.status.success() {
            return Err(format!("does not work as the README shows it:\n{session}\n{said}").into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readme(promises: usize) -> String {
        (1..=promises)
            .fold(String::new(), |text, n| format!("{text}| P{n} | is kept | [test](tests/p{n}.rs#top) |\n"))
    }

    fn tested(path: &str) -> Option<String> {
        path.starts_with("tests/").then(|| "#[tokio::test]\nasync fn it_holds() {}".to_owned())
    }

    #[test]
    fn a_promise_without_line_link_or_tests_is_named() {
        assert_eq!(problems(&readme(12), &tested), Vec::<String>::new());
        assert_eq!(problems(&readme(11), &tested), ["README.md has no line about P12"]);
        let unlinked = readme(12).replace("[test](tests/p3.rs#top)", "[docs](docs/promises.md)");
        assert_eq!(problems(&unlinked, &tested), ["README.md links no test file for P3"]);
        let without = |path: &str| tested(path).filter(|_| path != "tests/p1.rs");
        assert_eq!(problems(&readme(12), &without), ["P1: tests/p1.rs is no file with tests"]);
        let no_tests =
            |path: &str| tested(path).map(|text| if path.contains("p12") { String::new() } else { text });
        assert_eq!(problems(&readme(12), &no_tests), ["P12: tests/p12.rs is no file with tests"]);
    }

    #[test]
    fn only_shell_blocks_with_a_curl_line_are_played_and_whole() {
        let text = "curl outside\n```sh\ncargo run\n```\n```sh\nmv a b\ncurl -d '{\n}' u\n```\n```text\ncurl no\n```\n";
        assert_eq!(sessions(text), ["mv a b\ncurl -d '{\n}' u\n"]);
    }
}
