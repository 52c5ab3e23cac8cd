//! A question before something is given up for good.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use super::Exit;
use super::output::Failure;

/// Says what would be done, and asks; `yes` answers beforehand, which is needed where nobody can be asked.
pub(super) fn confirm(what: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        let message = format!("this would {what}\nnobody can be asked here: repeat it with --yes");
        return Err(Failure::new(Exit::Usage, message));
    }
    eprint!("This would {what}\nType yes to go on: ");
    let _ = std::io::stderr().flush();
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    if read.is_ok() && line.trim() == "yes" { Ok(()) } else { Err(Failure::failed("nothing was done")) }
}
