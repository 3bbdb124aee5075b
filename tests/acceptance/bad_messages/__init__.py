"""Messages that nobody should send, and a worker that must come through unharmed."""

import pytest

pytest.register_assert_rewrite(f"{__name__}.events", f"{__name__}.requests")
