// Behind the sign-in: the parts that are alive. Each file is one of them, and pages work without any.

import "./site.js";
import "./dialogs.js";
import "./shortcuts.js";
import "./copy.js";
import "./balance.js";
import "./chat.js";
import "./logs.js";
