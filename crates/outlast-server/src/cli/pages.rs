//! `outlast completions` and `outlast man`: what a package ships beside the binary.

use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::Shell;
use serde_json::json;

use super::arguments::{Arguments, Global};
use super::output::{Failure, print, print_json};

/// Prints the script that makes a shell complete Outlast's commands.
pub(super) fn completions(shell: Shell) {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "outlast", &mut script);
    print(&String::from_utf8_lossy(&script));
}

/// Prints the manual page of the program, or writes those of all commands into a folder.
pub(super) fn man(global: &Global, directory: Option<&Path>) -> Result<(), Failure> {
    let Some(directory) = directory else {
        let mut page = Vec::new();
        let rendered = clap_mangen::Man::new(Arguments::command()).render(&mut page);
        rendered.map_err(|error| Failure::failed(format!("the page could not be made: {error}")))?;
        print(&String::from_utf8_lossy(&page));
        return Ok(());
    };
    std::fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(Arguments::command(), directory))
        .map_err(|error| Failure::failed(format!("{} could not be written: {error}", directory.display())))?;
    if global.json {
        print_json(&json!({ "written": directory }));
    } else {
        print(&format!("wrote the manual pages to {}", directory.display()));
    }
    Ok(())
}
