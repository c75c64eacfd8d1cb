"""MLflow's pages, as a person walks through them."""

from collections.abc import Callable
from dataclasses import dataclass

from playwright.sync_api import FrameLocator, Locator, Page


@dataclass(frozen=True)
class MlflowPages:
    page: Page
    url: str
    keep: Callable[[str], None]
    """Takes a picture of the page under this name."""

    def open_version(self, model: str, version: int) -> None:
        """The page of a registered version, from its model's."""
        self.page.goto(f"{self.url}/#/models/{model}?workflowType=machine_learning")
        self.page.get_by_role("link", name=f"Version {version}", exact=True).click()
        self.page.get_by_role("heading", name=f"Version {version}", exact=True).wait_for()
        self.keep(f"{model} version {version}")

    def alias(self, name: str) -> Locator:
        """Of the version whose page is open."""
        return self.page.get_by_role("status", name=name, exact=True)

    def tag(self, name: str, value: str) -> Locator:
        """A row of the open page's table of tags; its page is scrolled within itself."""
        return self.page.get_by_role("row", name=f"{name} {value}", exact=True)

    def open_picture(self, run: str, name: str) -> Locator:
        """A picture among the artifacts of the run that the open version came from."""
        self.page.get_by_role("link", name=run, exact=True).click()
        self.page.get_by_role("tab", name="Artifacts").click()
        self.page.get_by_text("pictures", exact=True).click()
        self.page.get_by_text(name, exact=True).click()
        return self.page.get_by_role("img", name=f"pictures/{name}", exact=True)

    def shown_page(self) -> FrameLocator:
        """The HTML artifact that is open."""
        return self.page.frame_locator("iframe")
