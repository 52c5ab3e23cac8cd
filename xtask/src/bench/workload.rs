//! The writes that are measured: creates of small records whose content does not compress well.

use std::sync::Arc;

use outlast::write::LoggedWrite;
use outlast::{Collection, Document, RecordId, Write};

use super::contents::contents;
use crate::Result;

pub(crate) use super::contents::DOCUMENT_BYTES;

/// Makes writes. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Workload {
    collection: Collection,
    documents: Arc<[Document]>,
}

impl Workload {
    /// With contents made ahead, so that making a write costs little.
    pub(crate) fn new() -> Result<Self> {
        let documents = contents();
        let documents = documents.iter().map(|content| Document::parse(content));
        let documents: std::result::Result<Vec<_>, _> = documents.collect();
        Ok(Self { collection: "bench".parse()?, documents: documents?.into() })
    }

    /// Any of the contents.
    pub(crate) fn document(&self) -> &Document {
        &self.documents[fastrand::usize(..self.documents.len())]
    }

    /// A create under an id that was never used.
    pub(crate) fn write(&self) -> Write {
        Write::create(self.collection.clone(), RecordId::generate(), self.document().clone())
    }

    /// Such a write as it stands in the log.
    pub(crate) fn body(&self) -> Result<String> {
        let write = self.write();
        Ok(serde_json::to_string(&LoggedWrite { first: None, attempts: 0, write })?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_have_the_size_that_tables_name_and_bodies_read_back() {
        let workload = Workload::new().unwrap();
        assert!(workload.documents.iter().all(|document| document.as_str().len() == DOCUMENT_BYTES));
        let logged: LoggedWrite = serde_json::from_str(&workload.body().unwrap()).unwrap();
        assert_eq!(logged.write.operations().len(), 1);
    }
}
