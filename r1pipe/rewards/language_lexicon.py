"""Frequent words of each language: the evidence that a short run of letters gives of itself."""

from __future__ import annotations

import unicodedata
from functools import cache

# Function words first, then words of mathematical reasoning. They are evidence, not a dictionary:
# a word that is in no list is judged by its letters.
_LATIN = {
    "en": """the of and to in is that for it as on with by this be are from at or an was were have
        has had not but we you they he she his her its our your their which what when where who how
        why can could will would should may might must do does did so if then than there here these
        those all any some each every no one only also just about into over after before between
        through because since while both such other more most less let us now first next finally
        thus therefore hence however again still yet whether given out up down same per my me i'm
        we'll let's don't it's that's i'll doesn't isn't can't using means gives get know need
        want find see check try think note recall suppose assume answer question problem step steps
        number numbers sum product difference quotient remainder digit digits equation equations
        square squared root area length width height side triangle circle angle value values equal
        equals add added adding subtract multiply divide divided dividing times plus minus
        two three four five six seven eight nine ten hundred zero half second third prime even odd
        factor solve solution proof prove show shows ones tens hundreds left carry total result
        compute calculate wait okay right wrong good well like make makes take takes
        put back way both way left right function derivative integral probability point line
        time speed distance price cost cents dollars hours minutes days hour words word them
        simplify substitute substituting expand count counting case cases true false got write
        set sides term terms start end been being cannot many much very verify verified
        apples books people students boxes pages
        nor although though unless despite during against toward anything something nothing
        everything
        several few little using use used maximum minimum common greatest least actually
        really maybe""",
    "fr": """le la les un une des du de et à a en est que qui dans pour par sur avec ce cette ces il
        elle on nous vous ils elles je tu son sa ses leur leurs notre nos mon ma mes ne pas plus ou
        où mais donc or ni car si comme alors ainsi aussi très bien tout tous toute toutes être
        sont était étaient ont avons avoir fait faire peut peuvent doit doivent faut entre après
        avant sans sous chaque même mêmes quand quel quelle lorsque puis enfin ensuite abord d'abord
        c'est l'on qu'il qu'on d'où n'est j'ai s'agit parce puisque cela ça ceci dont deux trois
        quatre cinq six sept huit neuf dix cent zéro premier première deuxième nombre nombres somme
        produit reste chiffre chiffres équation carré racine aire longueur largeur côté côtés
        triangle cercle angle valeur égal égale égaux égalité ajoute ajouter additionne soustrait
        multiplie multiplions divise diviser fois moins obtient obtenons trouve trouvons calcule
        calculons calculer vérifie vérifions réponse résultat problème solution étape posons soit
        soient supposons montrer démontrer preuve on a l'équation retient retenue unités dizaines
        centaines pair impair premiers moitié quotient pourquoi comment voici peu encore déjà
        suffit revient note notons aux au y d'une d'un qu'un qu'une l'aire l'angle
        base hauteur total vitesse distance prix heures minutes jours bon
        ni sauf malgré pendant vers chez contre selon parfois jamais toujours rien quelque quelques
        plusieurs aucun aucune faire faisons utilise utilisant utilisons""",
    "de": """der die das und in zu den von mit ist im für auf ein eine einen einem einer eines dem
        des nicht als auch es an werden wird wir ihr sie er ich du sich bei aus nach wie oder aber
        wenn dann so dass daß man noch nur nun über unter zwischen durch um bis seit vor weil denn
        also daher deshalb somit damit dabei daraus haben hat hatte habe sind war waren sein seine
        kann können muss müssen soll sollen jetzt zuerst zunächst schließlich danach hier dort
        diese dieser dieses diesen jede jeder jedes alle alles beide beiden zwei drei vier fünf
        sechs sieben acht neun zehn hundert null erste ersten zweite zweiten zahl zahlen summe
        produkt rest ziffer ziffern gleichung gleichungen quadrat wurzel fläche länge breite
        seite seiten dreieck kreis winkel wert gleich ergibt erhalten addieren addiere subtrahieren
        multiplizieren multipliziere dividieren teilen mal minus plus rechnen berechnen berechne
        prüfen überprüfen lösung antwort ergebnis aufgabe schritt angenommen beweis zeigen sei
        seien gilt folgt ergebnis einer zehner hunderter übertrag gerade ungerade primzahl hälfte
        warum was wer wo welche welcher wieder sehr mehr weniger zum zur vom beim uns unser etwa
        lässt ganze genau insgesamt
        höhe geschwindigkeit preis stunden minuten tage doppelt stimmt bilden minus
        weder sowie sondern ohne gegen während trotz jedoch bereits einfach nötig brauche braucht
        etwas nichts viel viele wenig nehmen nehme setzen setze mich mir ihm ihn""",
    "es": """el la los las un una unos unas de del y e o u en que es por para con no se al lo como
        más pero sus su le les ya este esta esto estos estas ese esa eso hay son era ser está están
        sin sobre entre cuando donde muy también hasta desde nos nosotros yo tú él ella ellos mi
        si sí porque pues entonces luego así cada todo todos toda todas otro otra mismo misma
        tiene tenemos tienen tener puede podemos debe debemos hemos ha han fue primero primera
        segundo después antes ahora finalmente dos tres cuatro cinco seis siete ocho nueve diez
        cien cero número números suma producto resto residuo cifra cifras dígito dígitos ecuación
        cuadrado raíz área longitud ancho lado lados triángulo círculo ángulo valor igual sumamos
        sumar restamos restar multiplicamos multiplicar dividimos dividir veces menos obtenemos
        obtiene calculamos calcular encontramos hallamos comprobamos comprobar verificamos
        respuesta resultado problema solución paso supongamos sea sean demostrar demostración
        unidades decenas centenas llevamos par impar primo mitad cuál qué cómo cuánto quién tanto
        decir resolvemos queda hacemos vamos aquí aún solo sólo según mediante dado
        base altura total velocidad distancia precio doble triple horas minutos días hora media
        ni sino aunque mientras tampoco nada algo hacia bajo contra falta hace hacen hacer basta
        usamos usando necesito necesitamos máximo mínimo común""",
    "it": """il lo la i gli le un uno una di del dello della dei degli delle e ed è in nel nella nei
        nelle che per con non si al allo alla ai agli alle da dal dalla su sul sulla come più ma o
        se questo questa questi queste quello quella ci sono era essere anche quando dove molto
        fino tra fra ogni tutto tutti tutte altro stesso stessa ha hanno abbiamo avere può possiamo
        deve dobbiamo quindi allora poi perché poiché dunque così infine prima dopo ora adesso due
        tre quattro cinque sei sette otto nove dieci cento zero primo secondo numero numeri somma
        prodotto resto cifra cifre equazione quadrato radice area lunghezza larghezza lato lati
        triangolo cerchio angolo valore uguale sommiamo sommare sottraiamo moltiplichiamo
        dividiamo volte meno otteniamo ottiene calcoliamo calcolare troviamo verifichiamo risposta
        risultato problema soluzione passo supponiamo sia siano dimostrare dimostrazione unità
        decine centinaia riporto pari dispari metà quale quanto cioè noi io suo sua loro l'area
        dell'equazione nell'equazione c'è cui ottenere
        base altezza totale velocità distanza prezzo doppio ore minuti giorni media
        né però mentre senza contro verso niente qualcosa alcuni poco molti usando fa fare basta""",
    "pt": """o a os as um uma uns umas de do da dos das e em no na nos nas que é por para com não se
        ao aos à às pelo pela como mais mas ou seu sua seus suas este esta isto esse essa isso há
        são era ser está estão sem sobre entre quando onde muito também até desde nós eu ele ela
        eles meu minha sim porque pois então logo assim cada todo todos toda todas outro outra
        mesmo mesma tem temos têm ter pode podemos deve devemos foi primeiro primeira segundo
        depois antes agora finalmente dois duas três quatro cinco seis sete oito nove dez cem zero
        número números soma produto resto algarismo dígito dígitos equação quadrado raiz área
        comprimento largura lado lados triângulo círculo ângulo valor igual somamos somar
        subtraímos subtrair multiplicamos multiplicar dividimos dividir vezes menos obtemos
        calculamos calcular encontramos verificamos verificar resposta resultado problema solução
        passo suponha suponhamos seja sejam demonstrar demonstração prova unidades dezenas centenas
        par ímpar primo metade qual quanto quem portanto você vamos fica resolvemos aqui ainda
        segundo ambos lados num numa disso
        base altura total velocidade distância preço dobro horas minutos dias hora média ver
        nem porém enquanto contra nada algo alguns pouco muitos usando preciso faz fazer basta""",
    "nl": """de het een en van in is dat op te zijn voor met niet aan er om ook als dan maar bij of
        uit nog wel door over naar we wij je jij hij ze zij ik ons onze deze dit die dus want omdat
        wordt worden heeft hebben had kan kunnen moet moeten zal zullen nu eerst daarna vervolgens
        tenslotte ten slotte hier daar tussen elke elk alle beide twee drie vier vijf zes zeven
        acht negen tien honderd nul eerste tweede getal getallen som product rest cijfer cijfers
        vergelijking kwadraat wortel oppervlakte lengte breedte zijde zijden driehoek cirkel hoek
        waarde gelijk optellen tellen aftrekken vermenigvuldigen delen keer min krijgen berekenen
        controleren antwoord resultaat opgave oplossing stap stel bewijs geldt volgt eenheden
        tientallen honderdtallen onthouden even oneven priemgetal helft waarom wat welke hoe veel
        meer minder zo geen tot
        hoogte totaal snelheid afstand prijs uur minuten dagen dubbel
        zonder tegen terwijl niets iets enkele weinig gebruiken gebruik""",
    "vi": """là của và các một có không được này với trong cho những người để khi đã từ ra đến cũng
        như về sẽ thì mà nếu vì do nên ta chúng tôi bạn đó nhau hai ba bốn năm sáu bảy tám chín mười
        trăm số tổng hiệu tích thương dư chữ phương trình bình căn bậc diện chiều dài rộng cạnh tam
        giác tròn góc giá trị bằng cộng trừ nhân chia lần tính tìm kiểm tra đáp án kết quả bài toán
        giải bước giả sử chứng minh đơn vị hàng chục nhớ chẵn lẻ nguyên tố nửa đầu tiên tiếp theo
        sau trước vậy suy cuối cùng hay hoặc mỗi tất cả nhiều ít hơn nhất phải cần biết lại vào trên
        dưới giữa rằng gọi xét theo đây thế nào gì sao cách đều đúng sai thay chỉ còn hết
        cả nhưng mặc dù dùng ước chung lớn thuật hàm đạo thức định lý đề vế bé nhỏ cùng bớt thêm""",
}

# Vietnamese typed without its marks; only words that say little for another language.
_UNMARKED_VIETNAMESE = """cua khong duoc nhung nguoi khi cung nhu se thi ma neu nen chung toi ban
            bon
    sau bay chin muoi tram tong hieu tich thuong phuong trinh binh dien rong canh giac goc gia tri
    bang cong tru nhan chia tinh tim kiem ket qua bai toan giai buoc chung minh don vi hang chuc
    chan nguyen dau tien tiep theo truoc vay suy cuoi moi nhieu hon nhat phai biet vao tren duoi
    giua rang goi xet trong cho cac mot nay voi hai ta co la va so do thay dai"""

# Languages in letters that are not theirs (Chinese, Russian, Arabic, Hindi, Japanese, Korean).
_ROMANISED = """wo women ni nimen ta tamen zhe zhege na nage de le shi bu he suoyi yinwei ruguo name
    xian ranhou jisuan shuzi shu dengyu jia jian cheng chu yige liangge keyi dedao daan fangcheng
    zuihou jiu hai yao you mei women shou
    my snachala potom zatem togda eto chto kak dlya nado nuzhno znachit esli budet ravno ravna
    chislo chisla summa summu umnozhim slozhim razdelim poluchaem poluchim otvet reshim reshenie
    uravnenie teper sledovatelno poetomu nam nashe iz pri ili tozhe yest est' vse
    ehna e7na el al fi fe min wa we mesh da di dah deh elly yaani ya3ni ba3d b3den lazem
    3ashan 3lshan 7aga 2el keda kda law mo3adla rakam el3adad nagma3 nedrab natag
    hum pehle phir hai hain ka ki ke ko se mein aur yeh ye isliye agar nahi kya toh jodte jodo
    guna bhaag sankhya uttar barabar karte karna hota hoga
    mazu tsugi kore sore wa ga wo ni kara desu masu shite suru kotae keisan tashite hiku kakeru
    meonjeo geurigo uri neun reul eul ida hamnida gyesan dap"""

_OTHERS = {
    "cyrillic": {
        "ru": """и в не на что с по это как к из у за от о для мы он она они его её их но а или если
            то так же при все был была было были быть есть нет да только ещё уже также тогда
            значит поэтому потому затем потом теперь сначала пусть где когда чтобы этого этот эта
            эти каждый каждого два две три четыре пять шесть семь восемь девять десять сто ноль
            число числа чисел сумма сумму произведение остаток цифра цифры уравнение уравнения
            квадрат корень площадь длина ширина сторона стороны треугольник круг угол значение
            до после перед через сколько какой какая сейчас день дней много больше меньше чем очень
            там тут стоит всего рублей минут часов час раз раза него ней них ним тоже лишь либо
            сегодня вместе среди около равно равна равен сложим сложить вычтем умножим
            разделим делим получаем получим
            найдём найдем вычислим проверим ответ результат задача решение шаг предположим
            докажем доказательство единицы десятки сотни следовательно имеем нам нужно""",
        "uk": """і та в не на що з по це як до із у за від для ми він вона вони його її їх але або
            якщо то так при всі був була було були бути є ні тільки ще вже також тоді отже тому
            потім тепер спочатку нехай де коли щоб цього цей ця ці кожен два дві три чотири п'ять
            шість сім вісім дев'ять десять сто нуль число числа чисел сума суму добуток остача
            цифра рівняння квадрат корінь площа довжина ширина сторона трикутник коло кут значення
            дорівнює додамо додаємо віднімемо помножимо поділимо отримаємо маємо знайдемо обчислимо
            перевіримо відповідь результат задача розв'язок крок припустимо доведемо нам треба
            потрібно спершу скільки після перед через більше менше ніж кожній кожного зараз
            день днів разом
            також лише""",
        "bg": """и в не на че с по това как към из у за от ние той тя те го но или ако то така при
            всички беше са е има няма само още вече също тогава значи затова после сега първо нека
            където когато да този тази тези всеки два две три четири пет шест седем осем девет
            десет сто нула число числа числата сума сумата произведение остатък цифра уравнение
            уравнението квадрат корен площ площта дължина страна триъгълник кръг ъгъл стойност
            равно равен събираме изваждаме умножаваме делим получаваме намираме пресмятаме
            проверяваме отговор отговорът резултат задача решение стъпка следователно ще се""",
    },
    "arabic": {
        "ar": """في من على إلى عن هذا هذه أن إن لا ما هو هي كان كانت التي الذي ثم أو و لكن إذا كل مع
            بين بعد قبل عند حيث لأن لذلك إذن أولا أولاً ثانيا أي قد لم لن ليس نحن منها منه فإن
            وهو وهي عدد العدد الأعداد مجموع المجموع ناتج باقي الرقم المعادلة مربع جذر مساحة طول
            عرض ضلع مثلث دائرة زاوية قيمة يساوي تساوي نجمع نطرح نضرب نقسم نحصل نجد نحسب نتحقق
            الجواب الإجابة النتيجة المسألة الحل الخطوة لنفرض نفرض البرهان الآحاد العشرات المئات
            يكون تكون لدينا يمكن أيضا أيضًا الآن
        سم كغ متر ريال دولار تفاحة تفاحات سؤال""",
        "fa": """در از به با که این آن را است و برای یا اما اگر هر تا بر هم نیز می شود شده کنیم
            کنید می‌شود می‌کنیم ما او آنها باید پس سپس ابتدا اول دوم حالا اکنون چون بنابراین یک دو
            سه چهار پنج شش هفت هشت نه ده صد عدد اعداد مجموع حاصل باقیمانده رقم معادله مربع ریشه
            مساحت طول عرض ضلع مثلث دایره زاویه مقدار برابر جمع تفریق ضرب تقسیم داریم بدست پیدا
            محاسبه بررسی جواب پاسخ نتیجه مسئله حل گام فرض اثبات یکان دهگان صدگان های ها دارد
            است. شود""",
        "ur": """میں کے کی کا سے کو ہے ہیں اور یہ وہ پر نے کہ ہم بھی تو اس ان جو اگر پھر لیے لئے
            نہیں ایک دو تین چار پانچ چھ سات آٹھ نو دس سو صفر عدد اعداد مجموعہ حاصل باقی مساوات
            مربع جذر رقبہ لمبائی چوڑائی مثلث دائرہ زاویہ قیمت برابر جمع تفریق ضرب تقسیم کرتے کریں
            ملتا جواب نتیجہ سوال حل قدم پہلے اب ہوتا گا گے ہوگا""",
    },
    "devanagari": {
        "hi": """है हैं का की के में को से और पर यह ये वह वे हम कि जो तो भी नहीं एक लिए लिये इस उस
            इसलिए अतः यदि अगर फिर पहले अब तब जब क्योंकि ने था थी थे होगा होता होती होते कर करते
            करें करना करने हमें सभी दो तीन चार पाँच पांच छह सात आठ नौ दस सौ शून्य संख्या संख्याओं
            योग गुणनफल शेषफल अंक समीकरण वर्ग वर्गमूल क्षेत्रफल लंबाई चौड़ाई भुजा त्रिभुज वृत्त कोण
            मान बराबर जोड़ते जोड़ें घटाते गुणा भाग मिलता प्राप्त ज्ञात उत्तर परिणाम प्रश्न हल चरण
            मान
            लीजिए सिद्ध इकाई दहाई सैकड़ा हो रहा रही गया दिया जाता""",
        "mr": """आहे आहेत आणि चा ची चे च्या ला मध्ये हे हा ही ते तो ती आपण की जर तर पण नाही एक साठी
            या त्या म्हणून मग प्रथम आता नंतर कारण होते होता होती होईल असेल असते करू करतो करून
            आपल्याला सर्व दोन तीन चार पाच सहा सात आठ नऊ दहा शंभर शून्य संख्या संख्येचा बेरीज गुणाकार
            वजाबाकी भागाकार बाकी अंक समीकरण वर्ग क्षेत्रफळ लांबी रुंदी बाजू त्रिकोण वर्तुळ कोन किंमत
            बरोबर मिळते मिळतो मिळेल उत्तर परिणाम गणित शोधू पायरी समजा सिद्ध एकक दशक शतक काढू येते
            आहोत त्यामुळे दिलेल्या""",
        "ne": """छ छन् र को का की मा लाई ले हो हुन् यो त्यो हामी हामीले कि यदि भने पनि छैन एक लागि
            त्यसैले अनि पहिले अब किनभने थियो हुन्छ हुनेछ गर्छौं गर्दा गर्नुहोस् गर्न दुई
        तीन चार पाँच
            छ
            सात आठ नौ दस सय शून्य सङ्ख्या संख्या योगफल जोड घटाउ गुणन भाग शेष अङ्क समीकरण वर्ग
            क्षेत्रफल
            लम्बाइ चौडाइ भुजा त्रिभुज वृत्त कोण मान बराबर पाउँछौं प्राप्त उत्तर परिणाम समस्या समाधान
            चरण मानौं प्रमाणित गरौं छौं""",
    },
}

# What an English text can hardly do without, and what is cheap to strew into another language.
_GLUE = {
    "en": """the of and to in is that for it as on with by this be are from at or an was we so if
        then but not can will have has""",
    "fr": """le la les un une des du de et en est que qui dans pour par sur avec ce cette il on nous
        donc si alors mais ou ne pas""",
    "de": """der die das und in zu den von mit ist im für auf ein eine es wir nicht als auch an wenn
        dann so dass also oder aber""",
    "es": "el la los las un una de del y en que es por para con no se al lo como si pero entonces",
    "it": "il lo la i gli le un una di del della e è in che per con non si al da come se ma quindi",
    "pt": "o a os as um uma de do da dos das e em no na que é por para com não se como mas então",
    "nl": "de het een en van in is dat op te zijn voor met niet aan er om ook als dan maar we dus",
    "vi": "là của và các một có không được này với trong cho để ta thì nếu vì nên mà",
    "zh": "的 了 是 在 和 我 们 这 那 有 不 就 也 都 与 及 为 因 所 以 而 把 被",
    "ru": "и в не на что с по это как к из у за от о для мы но а или если то так при же",
    "ar": "في من على إلى عن هذا هذه أن إن لا ما هو هي ثم أو مع إذا كل",
    "hi": "है हैं का की के में को से और पर यह हम कि तो भी एक इस यदि",
    "ko": "그리고 그러나 그래서 그러면 이 그 저 은 는 이 가 을 를 의 에 와 과 도 즉 또 및",
}


# Often typed without accents, and still themselves.
_ACCENTS_ARE_DROPPED = ("fr", "es", "pt", "it")
_SHORTEST_WITHOUT_ACCENTS = 4


def _plain(words: str) -> str:
    """Return the words that carry accents, without them."""
    accented = (word for word in words.split() if not word.isascii())
    letters = (unicodedata.normalize("NFD", word) for word in accented)
    bare = (word.encode("ascii", "ignore").decode() for word in letters)
    return " ".join(word for word in bare if len(word) >= _SHORTEST_WITHOUT_ACCENTS)


@cache
def languages_of_word(script: str) -> dict[str, frozenset[str]]:
    """Return {lower-case word: the languages of `script` that list it}."""
    lists = dict(_LATIN) if script == "latin" else dict(_OTHERS[script])
    if script == "latin":
        lists["vi"] = f"{lists['vi']} {_UNMARKED_VIETNAMESE}"
        lists["romanised"] = _ROMANISED
        lists |= {code: f"{lists[code]} {_plain(lists[code])}" for code in _ACCENTS_ARE_DROPPED}
    found: dict[str, set[str]] = {}
    for language, words in lists.items():
        for word in words.replace("\u200c", "").split():
            found.setdefault(word, set()).add(language)
    return {word: frozenset(languages) for word, languages in found.items()}


@cache
def glue_words(language: str) -> frozenset[str]:
    """Return the words that hold the sentences of `language` together and mean little alone."""
    return frozenset(_GLUE.get(language, "").split())
