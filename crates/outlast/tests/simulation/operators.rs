//! Operators: they pause and resume, give up writes, and take dead letters back, as they are or edited.

use std::time::Duration;

use outlast::status::{DeadFilter, DeadLetter, QueueFilter};
use outlast::{Document, Error, Fate, Operation, Outlast, WriteId};
use outlast_testkit::history::Told;
use outlast_testkit::simulated::tokens_of;
use tokio::time::sleep;

use crate::story::{EDITED, Story};

/// Works until it is aborted.
pub async fn run(story: Story, outlast: Outlast, seed: u64) {
    let mut dice = fastrand::Rng::with_seed(seed);
    let mut late = 0;
    loop {
        sleep(Duration::from_millis(dice.u64(200..5000))).await;
        let former =
            std::mem::replace(&mut late, story.database.fired().get("arrived late").copied().unwrap_or(0));
        match dice.u8(..11) {
            // A transaction is under way that nobody waits for any more: what it would apply is given up meanwhile.
            0..=8 if late > former => pause(&story, &outlast, &mut dice).await,
            0..=2 => pause(&story, &outlast, &mut dice).await,
            3..=6 => cancel(&story, &outlast, &mut dice).await,
            7 => match dice.u8(..3) {
                0 => retry(&story, &outlast, &mut dice).await,
                1 => retry_all(&story, &outlast).await,
                _ => edit(&story, &outlast, &mut dice).await,
            },
            8 => discard(&story, &outlast, &mut dice).await,
            9 => outlast.throttle(dice.bool().then(|| dice.u64(5..200))),
            _ => outlast.throttle(None),
        }
        look(&story, &outlast);
    }
}

/// The books balance whenever somebody looks.
pub fn look(story: &Story, outlast: &Outlast) {
    let status = outlast.status();
    if !status.accounting_holds {
        story.violation(format!("the books do not balance: {:?}", status.accounting));
    }
    if status.queue.lanes > 1 {
        story.happened("several lanes");
    }
}

async fn pause(story: &Story, outlast: &Outlast, dice: &mut fastrand::Rng) {
    let at_most = Duration::from_millis(dice.u64(1000..12_000));
    let limited = dice.bool();
    if outlast.pause(limited.then_some(at_most)).await.is_err() {
        return;
    }
    story.trace.note(format_args!("operator: paused for {at_most:?}"));
    story.happened("paused");
    // What was under way when it was paused may be given up meanwhile, and may still arrive.
    let pause = at_most / 4;
    sleep(pause).await;
    for _ in 0..3 {
        cancel(story, outlast, dice).await;
        sleep(pause).await;
    }
    let _ = outlast.resume(None).await;
}

async fn cancel(story: &Story, outlast: &Outlast, dice: &mut fastrand::Rng) {
    // The oldest, mostly: what may be under way.
    let first = if dice.u8(..4) == 0 { 20 } else { 3 };
    let Ok(waiting) = outlast.queue_list(&QueueFilter { limit: first, ..QueueFilter::default() }).await
    else {
        return;
    };
    let Some(write) = dice.choice(&waiting.writes) else { return };
    let tokens = tokens_of(&write.operations);
    story.facts().perhaps_discarded.extend(tokens.iter().cloned());
    story.trace.note(format_args!("operator: cancel {} {}", write.id, tokens.join(" ")));
    match outlast.cancel(write.id).await {
        Ok(receipt) if receipt.status == Fate::Discarded => {
            story.trace.note(format_args!("operator: {} is cancelled", write.id));
            story.happened("cancelled");
            story.facts().discarded.extend(tokens);
        }
        Ok(receipt) => story.violation(format!("{} was cancelled, and is {:?}", write.id, receipt.status)),
        Err(error) => story.trace.note(format_args!("operator: {} is not cancelled: {error}", write.id)),
    }
}

async fn letters(outlast: &Outlast) -> Vec<DeadLetter> {
    let filter = DeadFilter { limit: 50, ..DeadFilter::default() };
    outlast.dead_letters(&filter).await.map(|page| page.letters).unwrap_or_default()
}

async fn a_letter(outlast: &Outlast, dice: &mut fastrand::Rng) -> Option<DeadLetter> {
    dice.choice(letters(outlast).await)
}

/// Its place is the end of the order now, if it is retried.
fn goes_to_the_end(story: &Story, letter: &DeadLetter) {
    for token in tokens_of(&letter.operations) {
        story.history.end(token.parse().unwrap(), Told::Unknown);
        story.facts().retried.insert(token);
    }
}

async fn retry(story: &Story, outlast: &Outlast, dice: &mut fastrand::Rng) {
    let Some(letter) = a_letter(outlast, dice).await else { return };
    let tokens = tokens_of(&letter.operations);
    story.trace.note(format_args!("operator: retry {} {}", letter.id, tokens.join(" ")));
    goes_to_the_end(story, &letter);
    match outlast.retry_dead_letter(letter.id).await {
        Ok(()) => story.happened("dead letter retried"),
        Err(error) => story.trace.note(format_args!("operator: {} is not retried: {error}", letter.id)),
    }
}

async fn retry_all(story: &Story, outlast: &Outlast) {
    let letters = letters(outlast).await;
    let ids: Vec<WriteId> = letters.iter().map(|letter| letter.id).collect();
    if ids.len() < 2 {
        return;
    }
    story.trace.note(format_args!("operator: retry {} letters", ids.len()));
    for letter in &letters {
        goes_to_the_end(story, letter);
    }
    match outlast.retry_dead_letters(&ids).await {
        Ok(step) => {
            story.trace.note(format_args!("operator: {step:?}"));
            story.happened("dead letters retried together");
        }
        Err(error) => story.trace.note(format_args!("operator: they are not retried: {error}")),
    }
}

/// The letter's documents get a member that says so.
async fn edit(story: &Story, outlast: &Outlast, dice: &mut fastrand::Rng) {
    let Some(letter) = a_letter(outlast, dice).await else { return };
    let tokens = tokens_of(&letter.operations);
    story.trace.note(format_args!("operator: edit {} {}", letter.id, tokens.join(" ")));
    goes_to_the_end(story, &letter);
    let mut operations = letter.operations;
    for operation in &mut operations {
        if let Operation::Create { data, .. } | Operation::Put { data, .. } | Operation::Patch { data, .. } =
            operation
        {
            let mut map = data.to_map();
            map.insert(EDITED.to_owned(), true.into());
            *data = Document::from_map(&map).unwrap();
        }
    }
    match outlast.edit_dead_letter(letter.id, operations).await {
        Ok(()) => {
            story.happened("dead letter edited");
            story.facts().edited.extend(tokens);
        }
        Err(error) => story.trace.note(format_args!("operator: {} is not edited: {error}", letter.id)),
    }
}

async fn discard(story: &Story, outlast: &Outlast, dice: &mut fastrand::Rng) {
    let Some(letter) = a_letter(outlast, dice).await else { return };
    let tokens = tokens_of(&letter.operations);
    story.facts().perhaps_discarded.extend(tokens.iter().cloned());
    story.trace.note(format_args!("operator: discard {} {}", letter.id, tokens.join(" ")));
    match outlast.discard_dead_letter(letter.id).await {
        Ok(()) => {
            story.happened("dead letter discarded");
            story.facts().discarded.extend(tokens);
        }
        Err(Error::NotFound { .. }) => {}
        Err(error) => story.trace.note(format_args!("operator: {} is not discarded: {error}", letter.id)),
    }
}
