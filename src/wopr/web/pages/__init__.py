"""One file per page, or per few pages that belong together: routes that ask the API and fill a template."""
