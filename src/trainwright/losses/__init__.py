"""Where a loss comes from, what it is a mean over, and how a micro-batch's becomes part of its step's."""
